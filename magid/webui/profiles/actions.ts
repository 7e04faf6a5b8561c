// What is asked of magid about a profile.
import { ApiError, ask, remove } from "../api/request.ts";
import { confirmed } from "../parts/dialog.tsx";
import { act, tell } from "../parts/notices.tsx";
import { NEW, type Fault } from "./draft.ts";

export const pathOf = (slug: string) => `api/models/profiles/${encodeURIComponent(slug)}`;

const TEXTS = "api/models/profile-texts";
const textOf = (slug: string) => `${TEXTS}/${encodeURIComponent(slug)}`;

export interface Loaded {
  text: string;
  tag: string; // the revision that a save replaces
  faults: Fault[]; // why the file cannot be used as it is
}

/** The profile's file. Raises ApiError. */
export async function load(slug: string): Promise<Loaded> {
  const answer = await ask("GET", textOf(slug));
  const { text, faults } = (await answer.json()) as Omit<Loaded, "tag">;
  return { text, faults, tag: answer.headers.get("ETag") ?? "" };
}

/** Saves the text as it is. Returns the profile's slug. Raises ApiError. */
export async function save(name: string, tag: string, text: string): Promise<string> {
  const isNew = name === NEW;
  const answer = await ask(isNew ? "POST" : "PUT", isNew ? TEXTS : textOf(name), {
    body: { text },
    headers: tag ? { "If-Match": tag } : {},
  });
  const { message, profileName } = (await answer.json()) as Record<string, string>;
  tell(message ?? "");
  return profileName ?? name;
}

/** What magid has found wrong in the text; undefined: it was refused for another reason. */
export function faultsOf(error: unknown): Fault[] | undefined {
  const faults = error instanceof ApiError ? error.details.errors : undefined;
  return Array.isArray(faults) && faults.every((one) => "line" in one) ? (faults as Fault[])
    : undefined;
}

/** Why the profile's file cannot be used; undefined: magid has said nothing of the file. */
export const problemOf = (error: unknown): string | undefined =>
  error instanceof ApiError && error.code === "InvalidProfile" ? error.message : undefined;

/** Asks first. Returns whether it is gone. */
export async function deleteProfile(slug: string): Promise<boolean> {
  const text = "Its file is deleted. A profile that came with magid comes back as it was shipped.";
  if (!(await confirmed(`Delete profile ${slug}?`, text, "Delete"))) return false;
  return act(() => remove<{ message: string }>(pathOf(slug)));
}
