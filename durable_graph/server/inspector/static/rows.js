// A list of any length, of which only the rows in sight are drawn. All rows have the same height. One row is selected;
// the box keeps the focus and names it (aria-activedescendant), so a list is one stop on the way of the Tab key.

const TALLEST = 8_000_000; // pixels: browsers end somewhere above; longer lists scroll in proportion
const MARGIN = 4; // rows drawn above and below those in sight

export class Rows {
  /** draw(index) -> element. looked(first, last): these are in sight. selected(index): by a key or a click.
   *  opened(index): Enter or a double click. */
  constructor(box, height, { draw, looked, selected, opened }) {
    Object.assign(this, { box, height, draw, looked, onSelect: selected, onOpen: opened });
    this.count = 0;
    this.selected = -1;
    this.drawn = new Map();
    this.went = null;
    this.extent = document.createElement("div");
    this.extent.className = "extent";
    box.replaceChildren(this.extent);
    box.addEventListener("scroll", () => this.paint());
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("click", (event) => this.click(event));
    box.addEventListener("dblclick", () => this.selected >= 0 && this.onOpen?.(this.selected));
    new ResizeObserver(() => this.resized()).observe(box);
  }

  get tall() { return this.count * this.height; }
  get room() { return Math.max(1, this.box.clientHeight); }

  /** How far down the first pixel in sight is, were the list not squeezed into TALLEST. A browser's whole pixels are
   *  then more than a row: where we went ourselves is remembered. */
  get top() {
    if (this.tall <= TALLEST) return this.box.scrollTop;
    if (this.went?.scrollTop === this.box.scrollTop) return this.went.top;
    return (this.box.scrollTop / (TALLEST - this.room)) * (this.tall - this.room);
  }

  set top(pixels) {
    const real = Math.max(0, Math.min(pixels, this.tall - this.room));
    this.box.scrollTop = this.tall <= TALLEST ? real : (real / (this.tall - this.room)) * (TALLEST - this.room);
    this.went = { scrollTop: this.box.scrollTop, top: real };
  }

  /** What is selected stays in sight. */
  resized() {
    if (this.inSight) this.reveal(this.selected);
    else this.paint();
  }

  resize(count) {
    this.count = count;
    this.extent.style.height = `${Math.min(this.tall, TALLEST)}px`;
    for (const index of this.drawn.keys()) if (index >= count) this.drop(index);
    this.paint();
  }

  /** Draw again: a row, those from `first` on, or all. */
  redraw(first = 0, last = Infinity) {
    for (const index of [...this.drawn.keys()]) if (index >= first && index <= last) this.drop(index);
    this.paint();
  }

  drop(index) {
    this.drawn.get(index).remove();
    this.drawn.delete(index);
  }

  paint() {
    if (!this.box.clientHeight) return;
    const top = this.top;
    const first = Math.max(0, Math.floor(top / this.height) - MARGIN);
    const last = Math.min(this.count - 1, Math.ceil((top + this.room) / this.height) + MARGIN);
    for (const index of [...this.drawn.keys()]) if (index < first || index > last) this.drop(index);
    for (let index = first; index <= last; index++) this.place(index, top);
    if (last >= first) this.looked?.(first, last);
    this.inSight = this.selected >= first && this.selected <= last;
    this.name();
  }

  place(index, top) {
    let row = this.drawn.get(index);
    if (!row) {
      row = this.draw(index);
      row.id = `${this.box.id}-${index}`;
      row.classList.add("row");
      row.setAttribute("role", "option");
      row.setAttribute("aria-setsize", this.count);
      row.setAttribute("aria-posinset", index + 1);
      row.setAttribute("aria-selected", index === this.selected);
      row.style.height = `${this.height}px`;
      this.drawn.set(index, row);
      this.box.append(row);
    }
    row.style.top = `${this.box.scrollTop + index * this.height - top}px`;
  }

  /** Say which row is selected to those who do not see it. */
  name() {
    if (this.drawn.has(this.selected)) this.box.setAttribute("aria-activedescendant", `${this.box.id}-${this.selected}`);
    else this.box.removeAttribute("aria-activedescendant");
  }

  /** Mark a row, and bring it into sight. */
  mark(index, { scroll = true } = {}) {
    this.drawn.get(this.selected)?.setAttribute("aria-selected", "false");
    this.selected = index;
    this.drawn.get(index)?.setAttribute("aria-selected", "true");
    if (scroll && index >= 0) this.reveal(index);
    this.name();
  }

  reveal(index) {
    const [above, room] = [index * this.height, this.room];
    if (above < this.top) this.top = above;
    else if (above + this.height > this.top + room) this.top = above + this.height - room;
    this.paint();
  }

  choose(index) {
    const next = Math.max(0, Math.min(this.count - 1, index));
    if (!this.count || next === this.selected) return;
    this.mark(next);
    this.onSelect?.(next);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target !== this.box) return;
    const page = Math.max(1, Math.floor(this.room / this.height) - 1);
    const to = {
      ArrowDown: this.selected + 1, j: this.selected + 1, ArrowUp: this.selected - 1, k: this.selected - 1,
      PageDown: this.selected + page, PageUp: this.selected - page,
      Home: 0, g: 0, End: this.count - 1, G: this.count - 1,
    }[event.key];
    if (event.key === "Enter" && this.selected >= 0) this.onOpen?.(this.selected);
    else if (to === undefined) return;
    else this.choose(to);
    event.preventDefault();
    event.stopPropagation();
  }

  click(event) {
    const row = event.target.closest(".row");
    for (const [index, drawn] of this.drawn) if (drawn === row) this.choose(index);
  }
}
