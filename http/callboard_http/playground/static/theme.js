// Light, dark, or as the system has it; the choice is kept.

const KEY = "callboard.theme";

export const THEMES = ["system", "light", "dark"];

/** Use a theme from now on; `button` is the one that goes through them. */
export function setTheme(name, button) {
  localStorage.setItem(KEY, name);
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  button.textContent = { system: "Auto", light: "Light", dark: "Dark" }[name];
  button.setAttribute("aria-label", `Theme: ${button.textContent}`);
}

export function startTheme(button) {
  setTheme(current(), button);
  button.addEventListener("click", () => {
    setTheme(THEMES[(THEMES.indexOf(current()) + 1) % THEMES.length], button);
  });
}

function current() {
  const kept = localStorage.getItem(KEY);
  return THEMES.includes(kept) ? kept : "system";
}
