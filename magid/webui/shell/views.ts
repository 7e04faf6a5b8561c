// The views, in the order of the navigation. Each is loaded when it is opened first.
import type { ComponentType } from "preact";

import { mayRead } from "../api/request.ts";
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
];
