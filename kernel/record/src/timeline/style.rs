//! The picture's colours, for light and dark. The panel has a background of its own, so that either set
//! can be read on any page, also where the page's theme is not the system's.

/// What a rule is for, its property, its colour on light and on dark.
const COLOURS: [(&str, &str, &str, &str); 34] = [
    ("panel", "fill", "#ffffff", "#171b22"),
    ("panel", "stroke", "#d3d9e0", "#353c46"),
    ("text", "fill", "#1f2630", "#e8edf3"),
    ("soft", "fill", "#5b6672", "#a0abb8"),
    ("grid", "stroke", "#e9edf1", "#272d36"),
    ("ground", "fill", "#ffffff", "#171b22"),
    ("stripe", "fill", "#f6f8fa", "#1c2129"),
    ("break", "fill", "#eef1f5", "#222933"),
    ("zig", "stroke", "#9aa5b1", "#5d6876"),
    ("tree", "stroke", "#b4bdc7", "#4d5763"),
    ("alive", "fill", "#4a90d2", "#4d95da"),
    ("running", "fill", "#4a90d2", "#4d95da"),
    ("blocked", "fill", "#c9dff3", "#223c56"),
    ("blocked", "stroke", "#7fb0dd", "#3d6d9c"),
    ("stopped", "fill", "#e3e6ea", "#343b45"),
    ("stopped", "stroke", "#8b95a0", "#8b95a0"),
    ("zombie", "stroke", "#b4690a", "#e8a64a"),
    ("hatch", "stroke", "#c67c1c", "#e3a040"),
    ("hatched", "fill", "#fdecd0", "#4b3614"),
    ("fork", "stroke", "#6d7a88", "#8894a2"),
    ("reap", "stroke", "#b4690a", "#e8a64a"),
    ("message", "stroke", "#1a8a4a", "#4cc47c"),
    ("signal", "stroke", "#b5308c", "#f08fd0"),
    ("tip-fork", "fill", "#6d7a88", "#8894a2"),
    ("tip-reap", "fill", "#b4690a", "#e8a64a"),
    ("tip-message", "fill", "#1a8a4a", "#4cc47c"),
    ("tip-signal", "fill", "#b5308c", "#f08fd0"),
    ("out", "fill", "#ffffff", "#171b22"),
    ("out", "stroke", "#1f2630", "#e8edf3"),
    ("err", "fill", "#d1242f", "#ff8178"),
    ("err", "stroke", "#ffffff", "#171b22"),
    ("end", "stroke", "#1f2630", "#e8edf3"),
    ("killed", "stroke", "#d1242f", "#ff8178"),
    ("bad", "fill", "#c01f2a", "#ff8178"),
];

/// What does not depend on the theme.
const SHAPES: &str = "\
text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif;font-variant-numeric:tabular-nums}\
|.fl-role{font-weight:600}\
|.fl-small{font-size:10.5px}\
|.fl-tiny{font-size:9px}\
|.fl-title{font-weight:600;font-size:13px}\
|.fl-halo{paint-order:stroke;stroke-width:3px;stroke-linejoin:round}\
|.fl-mono{font:10.5px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}\
|.fl-line{fill:none}\
|.fl-reap{stroke-dasharray:2 2.5}\
|.fl-signal{stroke-dasharray:5 2}\
|.fl-blocked,.fl-stopped{stroke-width:1}\
|.fl-stopped{stroke-dasharray:2 2}\
|.fl-killed,.fl-end{stroke-width:2;fill:none}\
|.fl-over:hover{opacity:.75}";

/// The rules for a picture with this id. Every selector begins with it: where a page has the picture's
/// source in itself, rules are rules for the whole page.
pub fn css(id: &str) -> String {
    let mut out = String::new();
    for rule in SHAPES.split('|') {
        let (selectors, body) = rule.split_once('{').unwrap_or((rule, "}"));
        let scoped: Vec<String> = selectors.split(',').map(|selector| format!("#{id} {selector}")).collect();
        out.push_str(&format!("{}{{{body}\n", scoped.join(",")));
    }
    out.push_str(&colours(&format!("#{id} "), false));
    out.push_str(&format!("@media(prefers-color-scheme:dark){{{}}}\n", colours(&format!("#{id} "), true)));
    // Pages that say which theme they have: JupyterLab and what nbconvert writes, and Visual Studio Code.
    // Their word is above the system's.
    out.push_str(&colours(&format!("body[data-jp-theme-light=true] #{id} "), false));
    out.push_str(&colours(&format!("body.vscode-light #{id} "), false));
    out.push_str(&colours(&format!("body[data-jp-theme-light=false] #{id} "), true));
    out.push_str(&colours(&format!("body.vscode-dark #{id} "), true));
    out
}

fn colours(scope: &str, dark: bool) -> String {
    let mut out = String::new();
    let colour = |light: &'static str, night: &'static str| if dark { night } else { light };
    for (class, property, light, night) in COLOURS {
        out.push_str(&format!("{scope}.fl-{class}{{{property}:{}}}", colour(light, night)));
    }
    // The seam around labels is the panel's own colour, so that lines below them do not touch them.
    out.push_str(&format!("{scope}.fl-halo{{stroke:{}}}\n", colour(COLOURS[0].2, COLOURS[0].3)));
    out
}
