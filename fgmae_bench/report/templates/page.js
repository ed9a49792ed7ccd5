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
  const links = page.tables.map((table) => h("a", { href: `#table-${table.name}` }, table.title, h("span", { class: "muted" }, `${readable(table.measured)}/${readable(table.planned)}`)));
  byId("contents").replaceChildren(...(links.length > 1 ? links : []));
}

function openLinked() {
  if (!location.hash.startsWith("#run=")) return;
  let name = "";
  try {
    name = decodeURIComponent(location.hash.slice(5));
  } catch (malformed) {
    return;
  }
  if (Object.hasOwn(page.runs, name)) page.open(name, [name]);
}

themes();
summary();
contents();
byId("tables").append(...page.tables.map((table) => tableSection(table, page)));
watchTips();
addEventListener("hashchange", openLinked);
openLinked();
document.documentElement.dataset.readyMs = performance.now().toFixed(1);
