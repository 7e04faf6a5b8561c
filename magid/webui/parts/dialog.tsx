// Dialogs over the page, and the one that asks before something that cannot be undone. The
// browser's own element keeps the focus inside it.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";

interface DialogProps {
  of: unknown; // what it is about
  heading: string; // the id of the heading inside it
  isWide?: boolean;
  onClose: () => void; // takes it out of the page
  children: (close: () => void) => ComponentChildren;
}

/** Open while it is drawn; another `of` opens it again. */
export function Dialog({ of, heading, isWide = false, onClose, children }: DialogProps) {
  const element = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    if (!element.current?.open) element.current?.showModal();
  }, [of]);
  // Closed first: the browser then gives the focus back to what had it.
  const close = () => {
    element.current?.close();
    onClose();
  };
  // Escape. The next key may open it again before `close` is told, so that is not waited for.
  const cancelled = (event: Event) => {
    event.preventDefault();
    close();
  };
  // Told later than it happens: by then the dialog may be open again, or gone for another one.
  const closed = () => {
    if (element.current?.open === false) onClose();
  };
  return (
    <dialog
      ref={element}
      class={isWide ? "wide" : ""}
      aria-labelledby={heading}
      onCancel={cancelled}
      onClose={closed}
    >
      {children(close)}
    </dialog>
  );
}

interface Question {
  number: number; // of all that were asked: none has what was typed or ticked in another one
  title: string;
  text: ComponentChildren;
  yes: string;
  isDestructive: boolean;
  answer: (isYes: boolean) => void;
}

const question = signal<Question | undefined>(undefined);
let last = 0;

/** Resolves to whether the user has agreed. A question replaces an older one, which is a no. */
export function confirmed(
  title: string,
  text: ComponentChildren,
  yes: string,
  isDestructive = true,
): Promise<boolean> {
  question.peek()?.answer(false);
  return new Promise((resolve) => {
    const asked: Question = { number: ++last, title, text, yes, isDestructive, answer };
    function answer(isYes: boolean): void {
      if (question.peek() === asked) question.value = undefined;
      resolve(isYes);
    }
    question.value = asked;
  });
}

export function ConfirmDialog() {
  const asked = question.value;
  if (asked === undefined) return null;
  return (
    <Dialog key={asked.number} of={asked} heading="question" onClose={() => asked.answer(false)}>
      {(close) => (
        <>
          <h2 id="question">{asked.title}</h2>
          <div class="dialog-text">{asked.text}</div>
          <div class="buttons">
            <button onClick={close}>Cancel</button>
            <button
              class={asked.isDestructive ? "danger" : "primary"}
              onClick={() => {
                asked.answer(true);
                close(); // its no comes after the yes, and counts for nothing
              }}
            >
              {asked.yes}
            </button>
          </div>
        </>
      )}
    </Dialog>
  );
}
