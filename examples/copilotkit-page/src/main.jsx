import * as React from "react";
import { createRoot } from "react-dom/client";
import { CopilotChat, CopilotKitProvider, useFrontendTools, useInterrupt } from "@copilotkit/react-core/v2";
import "@copilotkit/react-core/v2/styles.css";
import { decision, pageTools, question } from "./tools.js";

/* global CALLBOARD -- build.mjs puts the address here */
const AGENT = "demo"; // a workflow
const RUNTIME = `${CALLBOARD}/copilotkit`;
const THREAD = (sessionStorage.thread ??= crypto.randomUUID());

function Page() {
  const [theme, setTheme] = React.useState("light");
  const tools = React.useMemo(() => pageTools({ setTheme }), []);
  useFrontendTools(tools);
  useInterrupt({ agentId: AGENT, render: Approval });
  React.useEffect(() => void (document.documentElement.className = theme), [theme]);
  return (
    <main style={{ height: "100vh", colorScheme: theme, background: theme === "dark" ? "#111" : "#fff" }}>
      <CopilotChat agentId={AGENT} threadId={THREAD} />
    </main>
  );
}

function Approval({ interrupt, resolve }) {
  if (!interrupt) return <></>;
  return (
    <section aria-label="Approval">
      <p>{question(interrupt)}</p>
      <button onClick={() => resolve(decision(true), interrupt.id)}>Approve</button>{" "}
      <button onClick={() => resolve(decision(false), interrupt.id)}>Reject</button>
    </section>
  );
}

// In production `headers` carries your user's token: {{ Authorization: `Bearer ${token}` }}.
createRoot(document.querySelector("#root")).render(
  <CopilotKitProvider runtimeUrl={RUNTIME}>
    <Page />
  </CopilotKitProvider>,
);
