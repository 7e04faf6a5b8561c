// A field of text that counts when it is left: half a number is no value yet. What is being typed
// stays, whatever the stream brings meanwhile.
import { useState } from "preact/hooks";

type TextProps = Record<string, unknown> & {
  value: string;
  rows?: number;
  onValue: (text: string) => void;
};

export function TextControl({ value, rows = 1, onValue, ...common }: TextProps) {
  const [typed, setTyped] = useState<string>();
  const all = {
    ...common,
    value: typed ?? value,
    spellcheck: false,
    onInput: (event: { currentTarget: { value: string } }) => setTyped(event.currentTarget.value),
    onChange: (event: { currentTarget: { value: string } }) => {
      setTyped(undefined);
      if (event.currentTarget.value !== value) onValue(event.currentTarget.value);
    },
  };
  return rows > 1 ? <textarea {...all} rows={rows} class="code" /> : <input {...all} />;
}
