"""`python -m callboard_runtime.cli`: the same as the `callboard` command."""

from callboard_runtime.cli import main

if __name__ == "__main__":
    main()
