"""What the benchmarks start as processes of their own: the model, the systems compared, an actor that does nothing."""
