// The library: get models from a hub, follow downloads, see what the disk holds, remove models.
import { mayChange } from "../api/request.ts";
import { Empty } from "../parts/empty.tsx";
import { live } from "../stream/client.ts";
import { useDisk } from "./disk_usage.ts";
import { DiskView } from "./disk.tsx";
import { Downloads } from "./downloads.tsx";
import { Pull } from "./pull.tsx";
import { Updates } from "./updates.tsx";

export default function Library() {
  const now = live.value;
  const disk = useDisk();
  if (now === undefined) return <h1>Library</h1>;
  const free = disk.reply?.roots.find(({ isLibrary }) => isLibrary)?.freeBytes;
  return (
    <>
      <h1>Library</h1>
      {now.library === null ? <NoLibrary /> : mayChange() && <Pull freeBytes={free} />}
      <Downloads live={now} />
      {now.library !== null && mayChange() && <Updates />}
      <DiskView live={now} disk={disk} />
    </>
  );
}

function NoLibrary() {
  return (
    <Empty title="Nothing can be downloaded here">
      <p>
        Set <code>library_path</code> in magid.yaml to one of the model folders, or to a folder in
        one, and start magid again.
      </p>
    </Empty>
  );
}
