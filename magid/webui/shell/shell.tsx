// The frame of every view: navigation, connection, sign-in, messages.
import { signal } from "@preact/signals";
import type { ComponentType } from "preact";
import { useEffect, useRef } from "preact/hooks";

import { isSignedOut, mayRead, session, signOut } from "../api/request.ts";
import { ConfirmDialog } from "../parts/dialog.tsx";
import { Icon } from "../parts/icons.tsx";
import { Notices, tellError } from "../parts/notices.tsx";
import { live, retry } from "../stream/client.ts";
import { CaptureBanner, CaptureTag } from "./capture.tsx";
import { ConnectionBanner, ConnectionState } from "./connection.tsx";
import { route, to } from "./route.ts";
import { SignIn } from "./sign_in.tsx";
import { ThemeButton } from "./theme.tsx";
import { VIEWS, type View } from "./views.ts";

/** The stream ends with the session: the retry finds that out for all tabs. */
async function leave(): Promise<void> {
  try {
    await signOut();
    retry();
  } catch (error) {
    tellError(error);
  }
}

const loaded = signal<Record<string, ComponentType>>({});

export function Shell() {
  const isOut = isSignedOut();
  return (
    <>
      <a class="skip" href="#main" onClick={skipToMain}>
        Skip to content
      </a>
      <Header />
      <ConnectionBanner />
      <CaptureBanner />
      {isOut ? <SignIn /> : <Body />}
      <Notices />
      <ConfirmDialog />
    </>
  );
}

/** The address's # belongs to the views, so the link itself must not be followed. */
function skipToMain(event: Event): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

function Header() {
  const name = session.value?.signedIn ? session.value.name : null;
  return (
    <header class="top">
      <a class="brand" href={to("overview")}>
        magid
      </a>
      <Profile />
      <span class="grow" />
      <CaptureTag />
      {mayRead() && <ConnectionState />}
      {session.value?.access === "read" && <span class="tag">Read only</span>}
      {name && <span class="quiet who">{name}</span>}
      {session.value?.signedIn && (
        <button class="bare" aria-label="Sign out" onClick={() => void leave()}>
          <Icon name="out" />
        </button>
      )}
      <ThemeButton />
    </header>
  );
}

function Profile() {
  const name = live.value?.activeProfile;
  return name ? <span class="quiet profile">{name}</span> : null;
}

function Body() {
  const allowed = VIEWS.filter((view) => view.isAllowed());
  const shown = allowed.find((view) => view.name === route.value.view) ?? allowed[0];
  return (
    <div class="body">
      <nav aria-label="Views">
        <ul>
          {allowed.map((view) => (
            <li key={view.name}>
              <a href={to(view.name)} aria-current={view === shown ? "page" : undefined}>
                <Icon name={view.icon} />
                {view.title}
              </a>
            </li>
          ))}
        </ul>
      </nav>
      {shown && <Main view={shown} />}
    </div>
  );
}

function Main({ view }: { view: View }) {
  const element = useRef<HTMLElement>(null);
  const isFirst = useRef(true);
  const address = [view.name, ...route.value.rest].join("/");
  useEffect(() => {
    document.title = `${view.title} · magid`;
    if (!isFirst.current) element.current?.focus({ preventScroll: true });
    isFirst.current = false;
    scrollTo(0, 0);
    // On a small screen the navigation is wider than the screen.
    document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest" });
  }, [address]);
  useEffect(() => void load(view), [view]);
  const Content = loaded.value[view.name];
  return (
    <main id="main" ref={element} tabIndex={-1} aria-busy={Content === undefined}>
      {Content && <Content />}
    </main>
  );
}

async function load(view: View): Promise<void> {
  if (loaded.peek()[view.name]) return;
  try {
    const content = (await view.load()).default;
    loaded.value = { ...loaded.peek(), [view.name]: content };
  } catch {
    const what = `cannot load ${view.title}: magid was updated, or is away; reload the page`;
    tellError(new Error(what));
  }
}
