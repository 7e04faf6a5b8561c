// The views, in the order of the navigation. Each is loaded when it is opened first.
import type { ComponentType } from "preact";

import { mayAsk, mayRead } from "../api/request.ts";
import type { IconName } from "../parts/icons.tsx";

export interface View {
  name: string; // in the address
  title: string;
  icon: IconName;
  isAllowed: () => boolean;
  load: () => Promise<{ default: ComponentType }>;
}

export const VIEWS: View[] = [
  {
    name: "overview",
    title: "Overview",
    icon: "overview",
    isAllowed: mayRead,
    load: () => import("../overview/overview.tsx"),
  },
  {
    name: "models",
    title: "Models",
    icon: "models",
    isAllowed: mayRead,
    load: () => import("../models/models.tsx"),
  },
  {
    name: "library",
    title: "Library",
    icon: "library",
    isAllowed: mayRead,
    load: () => import("../library/library.tsx"),
  },
  {
    name: "profiles",
    title: "Profiles",
    icon: "profiles",
    isAllowed: mayRead,
    load: () => import("../profiles/profiles.tsx"),
  },
  {
    name: "chat",
    title: "Chat",
    icon: "chat",
    isAllowed: mayAsk,
    load: () => import("../chat/chat.tsx"),
  },
  {
    name: "activity",
    title: "Activity",
    icon: "activity",
    isAllowed: mayRead,
    load: () => import("../activity/activity.tsx"),
  },
  {
    name: "logs",
    title: "Logs",
    icon: "logs",
    isAllowed: mayRead,
    load: () => import("../logs/logs.tsx"),
  },
  {
    name: "system",
    title: "System",
    icon: "system",
    isAllowed: mayRead,
    load: () => import("../system/system.tsx"),
  },
];
