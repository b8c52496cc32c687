// A grid of as many cards as there are, of which only those in view exist. It knows rows by their place, asks for them
// a page at a time, and keeps the focus and the selection; it does not know what a row is.
//
//   new Grid(element, { load, card, changed, opened })
//     load(begin, end) → promise of rows;  card(row, old) → element;  changed(): focus or selection have;  opened(place)
//
// Browsers cannot scroll further than some ten million pixels, which are a few hundred thousand pictures. So the
// element inside is at most MOST_PX high: small steps move one to one, a jump (the scroll bar is dragged) in proportion,
// and at rest the scroll bar is put where it belongs.

const PAGE = 100;
const KEPT_PAGES = 80;
const MOST_PX = 6_000_000;
const GAP = 10;

export class Grid {
  constructor(element, { load, card, changed = () => {}, opened = () => {} }) {
    Object.assign(this, { element, load, card, changed, opened });
    this.total = 0;
    this.focus = 0;
    this.anchor = 0;
    this.selection = new Set();
    this.pages = new Map();
    this.asked = new Set();
    this.cards = new Map();
    this.width = 176;
    this.caption = 58;
    this.top = 0; // of the view, in the full height
    this.base = 0; // what is added to a place in the full height to have it in the element
    this.inner = document.createElement("div");
    this.inner.className = "inner";
    this.inner.setAttribute("role", "presentation");
    element.append(this.inner);
    element.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    element.addEventListener("click", (event) => this.#clicked(event));
    element.addEventListener("dblclick", (event) => this.#at(event) !== null && this.opened(this.focus));
    new ResizeObserver(() => this.#measure()).observe(element);
  }

  // --- what is shown ----------------------------------------------------------------------------------------------

  reset(total) {
    this.total = total;
    this.pages.clear();
    this.asked.clear();
    for (const card of this.cards.values()) card.remove();
    this.cards.clear();
    this.selection.clear();
    this.focus = this.anchor = 0;
    this.element.scrollTop = this.top = this.base = 0;
    this.#measure();
    this.changed();
  }

  resize(width) {
    this.width = width;
    this.#measure();
    this.reveal();
  }

  row(place) {
    return this.pages.get(Math.floor(place / PAGE))?.[place % PAGE];
  }

  // The rows of these places, those that are not here yet, too.
  async rows(places) {
    const wanted = [...new Set(places.map((place) => Math.floor(place / PAGE)))].filter((p) => !this.pages.has(p));
    const found = new Map(await Promise.all(wanted.map(async (p) => [p, await this.#fetch(p)])));
    return places.map((place) => this.row(place) ?? found.get(Math.floor(place / PAGE))?.[place % PAGE]).filter(Boolean);
  }

  // Rows that read otherwise now, wherever they are shown.
  update(rows, key = (row) => row.sample_id) {
    const changed = new Map(rows.map((row) => [key(row), row]));
    for (const [number, page] of this.pages) {
      page.forEach((row, i) => {
        if (row && changed.has(key(row))) {
          page[i] = changed.get(key(row));
          this.#redraw(number * PAGE + i);
        }
      });
    }
  }

  // Ask again for what is in view: others have changed it.
  async refresh() {
    const shown = new Set([...this.cards.keys()].map((place) => Math.floor(place / PAGE)));
    for (const number of this.pages.keys()) if (!shown.has(number)) this.pages.delete(number);
    await Promise.all([...shown].map((number) => this.#fetch(number)));
    for (const place of this.cards.keys()) this.#redraw(place);
    this.changed();
  }

  mark(places, name, on) {
    for (const place of places) this.cards.get(place)?.classList.toggle(name, on);
  }

  // --- focus and selection ----------------------------------------------------------------------------------------

  move(by, extend = false) {
    this.go(this.focus + by, extend);
  }

  go(place, extend = false) {
    if (!this.total) return;
    this.focus = Math.max(0, Math.min(this.total - 1, place));
    if (extend) this.#range(this.anchor, this.focus);
    else this.anchor = this.focus;
    this.reveal();
    this.#states();
  }

  toggle(place = this.focus) {
    if (!this.selection.delete(place)) this.selection.add(place);
    this.anchor = place;
    this.#states();
  }

  select(first, last) {
    this.#range(first, last);
    this.#states();
  }

  clear() {
    this.selection.clear();
    this.#states();
  }

  // What an action is on: the selection, else the picture with the focus.
  chosen() {
    return this.selection.size ? [...this.selection].sort((a, b) => a - b) : this.total ? [this.focus] : [];
  }

  reveal() {
    const top = Math.floor(this.focus / this.columns) * this.pitch;
    const view = this.element.clientHeight;
    if (top < this.top) this.#jump(top - GAP);
    else if (top + this.pitch > this.top + view) this.#jump(top + this.pitch - view + GAP);
    else this.#draw();
  }

  get perView() {
    return Math.max(1, Math.floor(this.element.clientHeight / this.pitch)) * this.columns;
  }

  #range(first, last) {
    this.selection = new Set();
    for (let i = Math.min(first, last); i <= Math.max(first, last); i++) this.selection.add(i);
  }

  #clicked(event) {
    const place = this.#at(event);
    if (place === null) return;
    this.element.focus({ preventScroll: true });
    const mark = event.target.closest(".pick");
    if (event.ctrlKey || event.metaKey || mark) {
      this.focus = place;
      this.toggle(place);
    } else {
      if (!event.shiftKey) this.selection.clear();
      this.go(place, event.shiftKey);
    }
  }

  #at(event) {
    const card = event.target.closest?.("[data-place]");
    return card ? Number(card.dataset.place) : null;
  }

  // --- where things are -------------------------------------------------------------------------------------------

  #measure() {
    const space = this.element.clientWidth - GAP;
    if (space <= 0) return;
    const first = this.top / (this.pitch || 1) * (this.columns || 1);
    this.columns = Math.max(space < 420 ? 2 : 3, Math.round(space / (this.width + GAP)));
    this.side = Math.floor(space / this.columns) - GAP;
    this.pitch = Math.round(this.side * 0.86) + this.caption + GAP;
    this.height = Math.ceil(this.total / this.columns) * this.pitch + GAP;
    this.inner.style.height = `${Math.min(this.height, MOST_PX)}px`;
    this.element.style.setProperty("--side", `${this.side}px`);
    this.element.style.setProperty("--picture", `${Math.round(this.side * 0.86)}px`);
    this.#jump(Math.floor(first / this.columns) * this.pitch);
    for (const place of this.cards.keys()) this.#redraw(place);
  }

  #bound(top) {
    return Math.max(0, Math.min(top, this.height - this.element.clientHeight));
  }

  #inProportion(top) {
    const view = this.element.clientHeight;
    if (this.height <= MOST_PX) return top;
    return Math.round((top / Math.max(1, this.height - view)) * (MOST_PX - view));
  }

  #jump(top) {
    this.top = this.#bound(top);
    const to = this.#inProportion(this.top);
    this.element.scrollTop = to;
    this.last = this.element.scrollTop;
    this.base = this.last - this.top;
    this.#draw();
  }

  #scrolled() {
    const now = this.element.scrollTop;
    const by = now - this.last;
    if (!by) return;
    this.last = now;
    const view = this.element.clientHeight;
    if (this.height <= MOST_PX) {
      this.top = now;
      this.base = 0;
    } else if (Math.abs(by) < 3 * view && now > 0 && now < MOST_PX - view) {
      this.top = this.#bound(this.top + by);
      this.base = now - this.top;
    } else {
      this.top = this.#bound((now / (MOST_PX - view)) * (this.height - view));
      this.base = now - this.top;
    }
    this.#draw();
    if (this.height > MOST_PX) {
      clearTimeout(this.resting);
      this.resting = setTimeout(() => this.#jump(this.top), 200);
    }
  }

  // --- cards ------------------------------------------------------------------------------------------------------

  #draw() {
    if (!this.columns || this.drawing) return;
    this.drawing = requestAnimationFrame(() => {
      this.drawing = null;
      const view = this.element.clientHeight;
      const begin = Math.max(0, Math.floor(this.top / this.pitch) - 1) * this.columns;
      const end = Math.min(this.total, (Math.ceil((this.top + view) / this.pitch) + 1) * this.columns);
      for (const [place, card] of this.cards) {
        if (place < begin || place >= end) {
          card.remove();
          this.cards.delete(place);
        }
      }
      for (let place = begin; place < end; place++) {
        if (!this.cards.has(place)) this.#redraw(place);
        this.#put(place);
      }
      clearTimeout(this.asking);
      this.asking = setTimeout(() => this.#ask(begin, end), this.pages.size ? 40 : 0);
    });
  }

  #put(place) {
    const x = (place % this.columns) * (this.side + GAP) + GAP;
    const y = Math.floor(place / this.columns) * this.pitch + GAP + this.base;
    this.cards.get(place).style.transform = `translate(${x}px, ${y}px)`;
  }

  #redraw(place) {
    const old = this.cards.get(place);
    const card = this.card(this.row(place), old);
    card.dataset.place = place;
    card.id = `place-${place}`;
    card.setAttribute("role", "option");
    card.setAttribute("aria-posinset", place + 1);
    card.setAttribute("aria-setsize", this.total);
    this.cards.set(place, card);
    this.#state(place);
    if (card !== old) {
      if (old) old.replaceWith(card);
      else this.inner.append(card);
      if (this.columns) this.#put(place);
    }
  }

  #states() {
    for (const place of this.cards.keys()) this.#state(place);
    this.changed();
  }

  #state(place) {
    const card = this.cards.get(place);
    card.setAttribute("aria-selected", this.selection.has(place));
    card.classList.toggle("focus", place === this.focus);
    if (place === this.focus) this.element.setAttribute("aria-activedescendant", card.id);
  }

  #ask(begin, end) {
    for (let number = Math.floor(begin / PAGE); number * PAGE < end; number++) {
      if (!this.pages.has(number) && !this.asked.has(number)) {
        this.#fetch(number).then((page) => {
          if (!page) return;
          for (const place of this.cards.keys()) if (Math.floor(place / PAGE) === number) this.#redraw(place);
          if (Math.floor(this.focus / PAGE) === number) this.changed();
        });
      }
    }
  }

  async #fetch(number) {
    this.asked.add(number);
    const pages = this.pages;
    try {
      const rows = await this.load(number * PAGE, Math.min(this.total, (number + 1) * PAGE));
      if (!rows) return null;
      pages.delete(number);
      pages.set(number, rows);
      while (pages.size > KEPT_PAGES) pages.delete(pages.keys().next().value);
      return rows;
    } finally {
      this.asked.delete(number);
    }
  }
}
