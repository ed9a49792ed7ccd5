// The start: theme, summary, banner, contents, sections; last, how long it took.

const page = JSON.parse(byId("data").textContent);
page.open = runPanel(page);

const THEMES = ["auto", "light", "dark"];

/** The scheme of the system, or the one that the reader chose here. Storage may be forbidden: then the choice lasts as long as the page. */
function themes() {
  const button = byId("theme");
  let theme = "auto";
  try {
    theme = localStorage.getItem("fgmae_bench theme") || "auto";
  } catch (forbidden) {
    theme = "auto";
  }
  if (!THEMES.includes(theme)) theme = "auto";
  function apply() {
    document.documentElement.dataset.theme = theme;
    button.textContent = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" }[theme];
    button.setAttribute("aria-label", `Colour scheme: ${theme}; change`);
  }
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try {
      localStorage.setItem("fgmae_bench theme", theme);
    } catch (forbidden) {
      button.title = "The choice is not kept: storage is forbidden here";
    }
    apply();
  });
  apply();
}

function summary() {
  const { records, synthetic } = page.head, plural = (n, word) => `${n.toLocaleString("en-US")} ${word}${n === 1 ? "" : "s"}`;
  const published = page.tables.some((table) => table.columns.some((name) => name.startsWith("published_")));
  byId("summary").textContent = records
    ? `${plural(records, "run")} in ${plural(page.tables.length, "table")}${published ? ", with published numbers" : ""}`
    : "No records yet: only published numbers are shown.";
  if (!synthetic) return;
  const banner = byId("banner");
  banner.hidden = false;
  banner.append(badge("synthetic"), h("span", {}, synthetic === records
    ? "Every run here was measured on a generated world. These numbers show that the bench works; they say nothing about Sentinel-1."
    : `${readable(synthetic)} of ${plural(records, "run")} were measured on generated worlds and are marked so. They say nothing about Sentinel-1.`));
}

function contents() {
  const boards = page.board ? page.board.pivots.map((pivot) => h("a", { href: `#board-${pivot.name}` }, pivot.title)) : [];
  const links = page.tables.filter((table) => table.measured).map((table) => h("a", { href: `#table-${table.name}` }, table.title, h("span", { class: "muted" }, `${readable(table.measured)}/${readable(table.planned)}`)));
  const every = [...boards, ...links, ...(page.tables.some((table) => !table.measured) ? [h("a", { href: "#planned" }, "planned")] : [])];
  byId("contents").replaceChildren(...(every.length > 1 ? every : []));
}

/** Tables of which nothing was measured yet, folded into one list; each is made when it is opened. */
function planned(tables) {
  if (!tables.length) return [];
  return [h("section", { id: "planned" }, h("h2", {}, "Planned, nothing measured yet"), h("p", { class: "muted about" }, "With the published numbers that they will be compared with."),
    tables.map((table) => {
      const made = h("details", { class: "whole" }, h("summary", {}, table.title, h("span", { class: "muted" }, ` ${readable(table.planned)} runs`)));
      made.addEventListener("toggle", () => made.open && made.children.length === 1 && made.append(tableSection(table, page)));
      return made;
    }))];
}

function openLinked() {
  const name = address.text("run");
  if (name && Object.hasOwn(page.runs, name)) page.open(name, [name]);
  else if (location.hash.length > 1 && !location.hash.includes("=") && byId(location.hash.slice(1))) goTo(byId(location.hash.slice(1)));
}

themes();
summary();
contents();
const measured = page.tables.filter((table) => table.measured || page.tables.length === 1);
byId("tables").append(...boardSections(page.board, page), ...measured.map((table) => tableSection(table, page)), ...planned(page.tables.filter((table) => !measured.includes(table))));
watchTips();
address.changed(openLinked);
openLinked();
document.documentElement.dataset.readyMs = performance.now().toFixed(1);
