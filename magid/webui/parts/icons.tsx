// Icons as lines in a square of 16 units; beside each stands a word.
const PATHS = {
  overview: "M2.5 2.5h4.5v6h-4.5zM9 2.5h4.5v3.5h-4.5zM9 8.5h4.5v5h-4.5zM2.5 11h4.5v2.5h-4.5z",
  models: "M8 2 13.5 5 8 8 2.5 5zM2.5 8 8 11l5.5-3M2.5 11 8 14l5.5-3",
  library: "M8 2v7M5 6.500l3 3 3-3M2.5 10v3.5h11V10",
  profiles: "M2.5 4h6M11.5 4h2M2.5 8h2M7.5 8h6M2.5 12h6M11.5 12h2M8.5 2.5v3M4.5 6.5v3M8.5 10.5v3",
  chat: "M2.5 3h11v8h-6.5l-3 2.5v-2.5h-1.5z",
  activity: "M1.5 8h3l2-5 3 10 2-5h3",
  logs: "M3 2.5h10v11h-10zM5.5 5.5h5M5.5 8h5M5.5 10.5h3",
  system:
    "M3.5 3.5h9v9h-9zM6 6h4v4h-4zM6 1.5v2M10 1.5v2M6 12.5v2M10 12.5v2M1.5 6h2M1.5 10h2" +
    "M12.5 6h2M12.5 10h2",
  ready: "M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0zM5.3 8.200l2 2 3.5-4",
  busy: "M8 2a6 6 0 1 0 6 6",
  stopped: "M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0zM6 6h4v4h-4z",
  off: "M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0z",
  failed: "M8 2 14.5 13.5h-13zM8 6.5v3M8 11.5v.2",
  waiting: "M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0zM8 4.5V8l2.5 1.5",
  info: "M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0zM8 7.5v3.5M8 5v.2",
  sun:
    "M11 8a3 3 0 1 1-6 0 3 3 0 0 1 6 0zM8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1" +
    "M12 12l1 1M13 3l-1 1M4 12l-1 1",
  moon: "M13.5 9.5A6 6 0 1 1 6.5 2.5a5 5 0 0 0 7 7z",
  auto: "M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0zM8 2v12M10 3v10M12 4.700v6.6",
  copy: "M6 6h7.5v7.5h-7.5zM10 6V2.5H2.5V10h3.5",
  close: "M4 4l8 8M12 4l-8 8",
  pin: "M9.5 2 14 6.5l-2 .5-2.5 2.5-.5 3L3.5 7l3-.5L9 4zM6 10l-4 4",
  pause: "M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0zM6.5 5.5v5M9.5 5.5v5",
  start: "M4.5 2.5 13 8l-8.5 5.5z",
  stop: "M4 4h8v8h-8z",
  restart: "M13.5 8a5.5 5.5 0 1 1-2-4.200M13.5 2v3h-3",
  search: "M11.5 7a4.5 4.5 0 1 1-9 0 4.5 4.5 0 0 1 9 0zM10.3 10.3 14 14",
  up: "M8 13V3M4 7l4-4 4 4",
  down: "M8 3v10M4 9l4 4 4-4",
  out: "M6 2.5H2.5v11H6M10 5l3 3-3 3M13 8H6",
  back: "M13 8H3M7 4 3 8l4 4",
} as const;

export type IconName = keyof typeof PATHS;

/** Decoration: a word beside it, or the label of its button, says what it means. */
export function Icon({ name, spins = false }: { name: IconName; spins?: boolean }) {
  return (
    <svg class={spins ? "icon spins" : "icon"} viewBox="0 0 16 16" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
