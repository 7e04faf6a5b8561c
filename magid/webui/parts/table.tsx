// A dense table. Only the rows near what is seen are in the document, so that thousands cost no
// more than a screen of them; the page scrolls, not the table.
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

import { useDrawn } from "./drawn.ts";
import { Icon } from "./icons.tsx";

export interface Column<Row> {
  key: string;
  title: string;
  cell: (row: Row) => ComponentChildren;
  isNumber?: boolean;
  low?: boolean; // left out on small screens
  mid?: boolean; // left out on those that are not wide
  isTitleHidden?: boolean;
  canSort?: boolean;
}

export interface Sorting {
  key: string;
  isDescending: boolean;
}

interface Props<Row> {
  label: string;
  columns: Column<Row>[];
  rows: Row[];
  keyOf: (row: Row) => string;
  sorting?: Sorting;
  onSort?: (key: string) => void;
}

const AHEAD = 15; // rows beyond each edge of the screen
const LOWEST = 32; // pixels of a row, at least

interface Range {
  from: number;
  to: number;
}

export function Table<Row>({ label, columns, rows, keyOf, sorting, onSort }: Props<Row>) {
  const body = useRef<HTMLTableSectionElement>(null);
  const { from, to } = useWindow(body, rows.length);
  const shown = rows.slice(from, to);
  const cells = useDrawn(shown, (row) => <Cells row={row} columns={columns} />, columns);
  return (
    <table aria-label={label} aria-rowcount={rows.length + 1}>
      <thead>
        <tr>
          {columns.map((column) => (
            <Heading key={column.key} column={column} sorting={sorting} onSort={onSort} />
          ))}
        </tr>
      </thead>
      <tbody ref={body}>
        <Gap rows={from} columns={columns.length} />
        {shown.map((row, index) => (
          <tr key={keyOf(row)} aria-rowindex={from + index + 2}>
            {cells[index]}
          </tr>
        ))}
        <Gap rows={rows.length - to} columns={columns.length} />
      </tbody>
    </table>
  );
}

/** Signals that a cell reads draw its row again. */
function Cells<Row>({ row, columns }: { row: Row; columns: Column<Row>[] }) {
  return (
    <>
      {columns.map((column) => (
        <td key={column.key} class={classes(column)}>
          {column.cell(row)}
        </td>
      ))}
    </>
  );
}

function classes<Row>(column: Column<Row>): string {
  const { key, isNumber, low, mid } = column;
  const words = [`col-${key}`, isNumber && "number", low && "low", mid && "low mid"];
  return words.filter(Boolean).join(" ");
}

interface HeadingProps<Row> {
  column: Column<Row>;
  sorting: Sorting | undefined;
  onSort: ((key: string) => void) | undefined;
}

function Heading<Row>({ column, sorting, onSort }: HeadingProps<Row>) {
  const { key, title, isTitleHidden } = column;
  const isSorted = sorting?.key === key;
  const order = sorting?.isDescending ? "descending" : "ascending";
  const text = isTitleHidden ? <span class="hidden">{title}</span> : title;
  return (
    <th scope="col" class={classes(column)} aria-sort={isSorted ? order : undefined}>
      {column.canSort && onSort ? (
        <button class="sort" onClick={() => onSort(key)}>
          {text}
          {isSorted && <Icon name={sorting.isDescending ? "down" : "up"} />}
        </button>
      ) : (
        text
      )}
    </th>
  );
}

function Gap({ rows, columns }: { rows: number; columns: number }) {
  if (rows <= 0) return null;
  return (
    <tr class="gap" aria-hidden="true">
      <td colSpan={columns} style={{ height: `calc(${rows} * var(--row))` }} />
    </tr>
  );
}

/** Which rows are near what is seen: at first a screen of them, in the next frame those beyond. */
function useWindow(body: { current: HTMLElement | null }, count: number): Range {
  const [range, setRange] = useState<Range>(firstScreen);
  useLayoutEffect(() => {
    const update = () => {
      const element = body.current;
      if (element === null) return;
      const height = rowHeight(element);
      const top = Math.max(0, -element.getBoundingClientRect().top);
      const from = Math.max(0, Math.floor(top / height) - AHEAD);
      const to = Math.ceil((top + innerHeight) / height) + AHEAD;
      setRange((old) => (old.from === from && old.to === to ? old : { from, to }));
    };
    const frame = requestAnimationFrame(update);
    addEventListener("scroll", update, { passive: true });
    addEventListener("resize", update);
    return () => {
      cancelAnimationFrame(frame);
      removeEventListener("scroll", update);
      removeEventListener("resize", update);
    };
  }, []);
  const to = Math.min(range.to, count);
  return { from: Math.max(0, Math.min(range.from, to - 1)), to };
}

function firstScreen(): Range {
  return { from: 0, to: Math.ceil(innerHeight / LOWEST) };
}

function rowHeight(element: HTMLElement): number {
  return parseFloat(getComputedStyle(element).getPropertyValue("--row")) || 32;
}
