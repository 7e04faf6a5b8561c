// Profiles: the list, or the editor of one.
import { route } from "../shell/route.ts";
import { Editor } from "./editor.tsx";
import { ProfileList } from "./list.tsx";

export default function Profiles() {
  const [name] = route.value.rest;
  if (name === undefined) return <ProfileList />;
  return <Editor key={name} name={name} />;
}
