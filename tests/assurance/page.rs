//! The report as one self-contained page: no script, no font, no image.

use std::fmt::Write as _;

use crate::report::{Count, Report, Section, Table};

const STYLE: &str = "\
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --good: #1a7f37; --bad: #c62828; }
@media (prefers-color-scheme: dark) { :root { --good: #57c27a; --bad: #ff7b72; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 0; } h3 { font-size: .95rem; margin: 1.2rem 0 .4rem; }
p { margin: .3rem 0 .8rem; } .quiet { opacity: .7; }
section { border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.25rem; margin: 1.25rem 0; }
.verdict { float: right; font-weight: 600; } .good { color: var(--good); } .bad { color: var(--bad); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--soft); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
ul.counts { columns: 2; column-gap: 2.5rem; list-style: none; padding: 0; margin: 0; font-size: .9rem; }
ul.counts li { display: flex; justify-content: space-between; gap: 1rem; break-inside: avoid; padding: .12rem 0; }
ul.counts b { font-weight: 600; font-variant-numeric: tabular-nums; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .6rem .8rem; border-radius: .4rem; }
@media (max-width: 40rem) { ul.counts { columns: 1; } .verdict { float: none; display: block; } }
";

/// The page's HTML.
pub(crate) fn of(report: &Report) -> String {
    let broken = report.sections.iter().filter(|section| !section.broken.is_empty()).count();
    let took: f64 = report.sections.iter().map(|section| section.took_seconds).sum();
    let size = if report.long { "long size" } else { "CI size" };
    let verdict = match broken {
        0 => "all campaigns passed".to_owned(),
        1 => "one campaign failed".to_owned(),
        many => format!("{many} campaigns failed"),
    };
    let mut page = String::new();
    push(&mut page, "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">");
    push(&mut page, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    push(&mut page, &format!("<title>ostler: fault-injection campaigns</title><style>{STYLE}</style>"));
    push(&mut page, "<h1>Fault-injection campaigns of ostler</h1>");
    let colour = if broken == 0 { "good" } else { "bad" };
    let campaigns = report.sections.len();
    push(
        &mut page,
        &format!(
            "<p><b class=\"{colour}\">{verdict}</b> <span class=\"quiet\">{campaigns} campaigns, {size}, {}</span></p>",
            duration_text(took)
        ),
    );
    for section in &report.sections {
        push(&mut page, &section_of(section));
    }
    page
}

fn section_of(section: &Section) -> String {
    let mut text = String::from("<section>");
    let (word, colour) = if section.broken.is_empty() { ("passed", "good") } else { ("FAILED", "bad") };
    let took = duration_text(section.took_seconds);
    push(
        &mut text,
        &format!("<span class=\"verdict {colour}\">{word} <span class=\"quiet\">{took}</span></span>"),
    );
    push(
        &mut text,
        &format!("<h2>{}</h2><p>{}</p>", escape(&section.title), escape(&sentence(&section.what))),
    );
    if !section.broken.is_empty() {
        push(&mut text, &format!("<h3>Violations</h3><pre>{}</pre>", escape(&section.broken.join("\n"))));
    }
    if !section.counts.is_empty() {
        push(&mut text, "<ul class=\"counts\">");
        for Count { what, count } in &section.counts {
            push(&mut text, &format!("<li>{} <b>{}</b></li>", escape(what), grouped(*count)));
        }
        push(&mut text, "</ul>");
    }
    for table in &section.tables {
        push(&mut text, &table_of(table));
    }
    push(&mut text, "</section>");
    text
}

fn table_of(table: &Table) -> String {
    let is_number = |column: usize| {
        let mut cells = table.rows.iter().filter_map(|row| row.get(column));
        !table.rows.is_empty() && cells.all(|cell| cell == "-" || cell.parse::<u64>().is_ok())
    };
    let class = |column| if is_number(column) { " class=\"number\"" } else { "" };
    let mut text = format!("<h3>{}</h3><table><tr>", escape(&table.title));
    for (column, title) in table.columns.iter().enumerate() {
        push(&mut text, &format!("<th{}>{}</th>", class(column), escape(title)));
    }
    push(&mut text, "</tr>");
    for row in &table.rows {
        push(&mut text, "<tr>");
        for (column, cell) in row.iter().enumerate() {
            let content = cell.parse::<u64>().map_or_else(|_| escape(cell), grouped);
            push(&mut text, &format!("<td{}>{content}</td>", class(column)));
        }
        push(&mut text, "</tr>");
    }
    push(&mut text, "</table>");
    text
}

fn push(text: &mut String, more: &str) {
    writeln!(text, "{more}").expect("writing to a string cannot fail");
}

/// Separates groups of three digits with a narrow space.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn duration_text(seconds: f64) -> String {
    if seconds < 120.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}

/// Adds a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str().trim_end_matches('.'))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
