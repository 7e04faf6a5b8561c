// Trades a token for a session of this browser.
import { useEffect, useRef, useState } from "preact/hooks";

import { signIn } from "../api/request.ts";
import { Command } from "../parts/copy.tsx";
import { retry } from "../stream/client.ts";

export function SignIn() {
  const [token, setToken] = useState("");
  const [problem, setProblem] = useState("");
  const [isBusy, setBusy] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.focus(), []);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await signIn({ token: token.trim() });
      retry();
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    } finally {
      setBusy(false);
    }
  };
  return (
    <main class="sign-in" id="main" tabIndex={-1}>
      <form onSubmit={(event) => void submit(event)}>
        <h1>Sign in to magid</h1>
        <label for="token">Token</label>
        <input
          id="token"
          type="password"
          autocomplete="current-password"
          spellcheck={false}
          required
          ref={field}
          aria-invalid={problem !== ""}
          aria-describedby="sign-in-problem"
          value={token}
          onInput={(event) => setToken(event.currentTarget.value)}
        />
        <p id="sign-in-problem" class="problem" role="alert">
          {problem}
        </p>
        <button class="primary" disabled={isBusy}>
          Sign in
        </button>
        <p class="quiet">
          A token begins with magi_. On the server, this prints a link that needs none: <br />
          <Command text="magictl open" />
        </p>
      </form>
    </main>
  );
}
