// The settings of one model, over the form of a profile.
import type { Model } from "../api/types.ts";
import { useDetail } from "../models/detail.tsx";
import { Settings } from "../models/settings.tsx";
import { Dialog } from "../parts/dialog.tsx";

export function ModelSettings({ model, onClose }: { model: Model; onClose: () => void }) {
  const [detail, reload, problem] = useDetail(model.modelId, JSON.stringify(model));
  return (
    <Dialog of={model.modelId} heading="settings-of" isWide onClose={onClose}>
      {(close) => (
        <>
          <div class="heading">
            <h2 id="settings-of">Settings of {model.displayName}</h2>
            <button onClick={close}>Close</button>
          </div>
          <p class="quiet">
            They are the model's own and hold in every profile, from its next start on. They are
            saved here, and not with the profile.
          </p>
          {problem && <p class="problem">{problem}</p>}
          {detail && <Settings detail={detail} onFields={() => undefined} onSaved={reload} />}
        </>
      )}
    </Dialog>
  );
}
