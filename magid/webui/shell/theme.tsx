// Dark, light, or as the system has it.
import { signal } from "@preact/signals";

import { Icon, type IconName } from "../parts/icons.tsx";
import { store, stored } from "./stored.ts";

const THEMES = ["auto", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];

const ABOUT: Record<Theme, { icon: IconName; word: string }> = {
  auto: { icon: "auto", word: "as the system" },
  light: { icon: "sun", word: "light" },
  dark: { icon: "moon", word: "dark" },
};

const theme = signal<Theme>("auto");

/** Called once, before anything is drawn. */
export function applyTheme(): void {
  const kept = stored<string>("theme", "auto");
  theme.value = THEMES.find((known) => known === kept) ?? "auto";
  theme.subscribe((chosen) => {
    document.documentElement.dataset.theme = chosen;
  });
}

export function ThemeButton() {
  const now = theme.value;
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length] ?? "auto";
  const change = () => {
    theme.value = next;
    store("theme", next);
  };
  return (
    <button class="bare" onClick={change} aria-label={`Colours: ${ABOUT[now].word}`}>
      <Icon name={ABOUT[now].icon} />
    </button>
  );
}
