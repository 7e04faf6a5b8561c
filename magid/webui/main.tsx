// Starts the page.
import { effect } from "@preact/signals";
import { render } from "preact";

import { ApiError, loadSession, mayRead, session, signIn } from "./api/request.ts";
import { tellError } from "./parts/notices.tsx";
import { followCapture } from "./shell/capture.tsx";
import { followAddress } from "./shell/route.ts";
import { Shell } from "./shell/shell.tsx";
import { applyTheme } from "./shell/theme.tsx";
import { connect, connection } from "./stream/client.ts";
import { keepHistory } from "./stream/history.ts";

const RETRY_MS = 1_000;

/** A link of `magictl open` has its secret behind the #, which is sent to no server. */
async function useLink(): Promise<void> {
  const [, link] = /^#link=(.+)$/.exec(location.hash) ?? [];
  if (link === undefined) return;
  history.replaceState(null, "", location.pathname); // a secret stays in no history
  try {
    await signIn({ link: decodeURIComponent(link) });
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 409)) tellError(error); // none is needed
  }
}

/** Asks until magid answers: it may be starting. */
async function knowSession(): Promise<void> {
  while (session.value === undefined) {
    try {
      await loadSession();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

applyTheme();
await useLink();
followAddress();
keepHistory();
followCapture();
render(<Shell />, document.body);
await knowSession();

// A caller who may read nothing, or is signed out, has no stream; one who signs in gets it.
let isConnected = false;
effect(() => {
  if (!mayRead() || isConnected) return;
  isConnected = true;
  connect();
});
// Another tab may have signed out or in, or the token may have ended.
connection.subscribe((now) => {
  if (isConnected && (now === "signedOut" || now === "open")) void loadSession().catch(tellError);
});
