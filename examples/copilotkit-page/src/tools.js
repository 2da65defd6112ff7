// What the agent may do to this page. Nothing here knows React, so that a test can run it without a browser.
import { z } from "zod";

/** `setTheme` shows the page in that theme. */
export function pageTools({ setTheme }) {
  return [
    {
      name: "ui.set_theme",
      description: "Show the page in a dark or a light theme",
      parameters: z.object({ theme: z.enum(["dark", "light"]) }),
      handler: async ({ theme }) => {
        setTheme(theme);
        return `the page is ${theme} now`;
      },
    },
  ];
}

/** What an approval's card says. */
export function question({ metadata: { toolName, args } }) {
  const given = Object.entries(args).map(([name, value]) => `${name} ${value}`);
  return `May ${toolName} be run with ${given.join(", ")}?`;
}

/** What is sent for a press of Approve or Reject. */
export const decision = (approved) => ({ approved });
