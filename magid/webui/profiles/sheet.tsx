// The text of a profile, with the lines marked where something is wrong.
import { useRef } from "preact/hooks";

import { mayChange } from "../api/request.ts";
import type { Fault } from "./draft.ts";

const ID = "sheet";

interface SheetProps {
  text: string;
  faults: Fault[];
  onInput: (text: string) => void;
}

export function Sheet({ text, faults, onInput }: SheetProps) {
  const numbers = useRef<HTMLDivElement>(null);
  const marked = new Set(faults.map(({ line }) => line));
  const count = text.split("\n").length;
  return (
    <div class="sheet">
      <div class="numbers" ref={numbers} aria-hidden="true">
        {Array.from({ length: count }, (_, index) => (
          <div key={index} class={marked.has(index + 1) ? "marked" : ""}>
            {index + 1}
          </div>
        ))}
      </div>
      <textarea
        class="code"
        id={ID}
        aria-label="Profile as YAML"
        aria-describedby="faults"
        aria-invalid={faults.length > 0}
        spellcheck={false}
        wrap="off"
        readOnly={!mayChange()}
        value={text}
        onInput={(event) => onInput(event.currentTarget.value)}
        onScroll={({ currentTarget }) => {
          if (numbers.current) numbers.current.scrollTop = currentTarget.scrollTop;
        }}
      />
    </div>
  );
}

/** Selects the line, if the text is shown. */
export function goToLine(line: number): void {
  const sheet = document.getElementById(ID) as HTMLTextAreaElement | null;
  if (sheet === null) return;
  const lines = sheet.value.split("\n");
  const start = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
  sheet.focus();
  sheet.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0));
}
