// Asks before something that cannot be undone. The browser's own dialog keeps the focus inside it.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";

interface Question {
  title: string;
  text: ComponentChildren;
  yes: string;
  isDestructive: boolean;
  answer: (isYes: boolean) => void;
}

const question = signal<Question | undefined>(undefined);

/** Resolves to whether the user has agreed. A question replaces an older one, which is a no. */
export function confirmed(
  title: string,
  text: ComponentChildren,
  yes: string,
  isDestructive = true,
): Promise<boolean> {
  question.peek()?.answer(false);
  return new Promise((resolve) => {
    const asked: Question = { title, text, yes, isDestructive, answer };
    function answer(isYes: boolean): void {
      if (question.peek() === asked) question.value = undefined;
      resolve(isYes);
    }
    question.value = asked;
  });
}

export function ConfirmDialog() {
  const element = useRef<HTMLDialogElement>(null);
  const asked = question.value;
  useLayoutEffect(() => {
    if (asked && !element.current?.open) element.current?.showModal();
  }, [asked]);
  if (asked === undefined) return null;
  // Closed first: the browser then gives the focus back to what had it.
  const answer = (isYes: boolean) => {
    element.current?.close();
    asked.answer(isYes);
  };
  // The event comes later than the end: by then the next question may be open.
  const closed = () => element.current?.open || asked.answer(false);
  return (
    <dialog ref={element} aria-labelledby="question" onClose={closed}>
      <h2 id="question">{asked.title}</h2>
      <div class="dialog-text">{asked.text}</div>
      <div class="buttons">
        <button onClick={() => answer(false)}>Cancel</button>
        <button
          class={asked.isDestructive ? "danger" : "primary"}
          onClick={() => answer(true)}
        >
          {asked.yes}
        </button>
      </div>
    </dialog>
  );
}
