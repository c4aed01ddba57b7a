//! The colours of the orders, for light and dark pages, as the timeline has them.

/// A part's rule: its selector below the orders' own element, its property, its colour on light and on dark.
const COLOURS: [(&str, &str, &str, &str); 12] = [
    ("", "color", "#1f2630", "#e8edf3"),
    ("", "background", "#ffffff", "#171b22"),
    ("", "border-color", "#d3d9e0", "#353c46"),
    (" .fo-soft", "color", "#5b6672", "#a0abb8"),
    (" .fo-bar", "background", "#4a90d2", "#4d95da"),
    (" .fo-track", "background", "#eef1f5", "#222933"),
    (" .fo-different", "border-color", "#d1242f", "#ff8178"),
    (" .fo-bad", "color", "#c01f2a", "#ff8178"),
    (" .fo-left", "background", "#ffe3e0", "#4d1f22"),
    (" .fo-right", "background", "#d9f2e0", "#153d27"),
    (" .fo-none", "background", "#f6f8fa", "#1c2129"),
    (" tr", "border-color", "#e9edf1", "#272d36"),
];

/// What does not depend on the theme. Pages have rules for tables of their own: stripes, borders, sides.
const SHAPES: [(&str, &str); 18] = [
    (
        "",
        "border:1px solid;border-radius:6px;padding:10px 14px;max-width:960px;box-sizing:border-box;\
      font:13px/1.45 system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif",
    ),
    (" p", "margin:0 0 6px"),
    (" .fo-title", "font-size:14px"),
    (
        " table",
        "border-collapse:collapse;border:0;margin:6px 0;width:100%;table-layout:fixed;color:inherit;font-size:inherit",
    ),
    (" tr", "background:none;border-top:1px solid"),
    (" .fo-bars tr", "border:0"),
    (" td", "padding:1px 6px;text-align:left;vertical-align:middle;border:0"),
    (" th", "padding:2px 6px;text-align:left;font-weight:600;border:0;vertical-align:bottom"),
    (" .fo-number", "text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap"),
    (" .fo-roles", "white-space:nowrap;overflow:hidden;text-overflow:ellipsis"),
    (" .fo-track", "height:12px;border-radius:2px;overflow:hidden"),
    (" .fo-bar", "height:12px;min-width:2px;border-radius:2px"),
    (
        " .fo-mono",
        "font:12px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;\
      white-space:pre-wrap;overflow-wrap:anywhere",
    ),
    (" ins", "text-decoration:none"),
    (" del", "text-decoration:none"),
    (" summary", "cursor:pointer;margin:4px 0"),
    (" .fo-different", "border-left:3px solid;padding:2px 0 2px 10px;margin:8px 0"),
    (" .fo-who", "font-weight:600"),
];

/// The rules for the element with this id. Every selector begins with it, since a page has one list of
/// rules for all of its outputs.
pub fn css(id: &str) -> String {
    let mut out = String::new();
    for (part, body) in SHAPES {
        out.push_str(&format!("#{id}{part}{{{body}}}\n"));
    }
    out.push_str(&colours(&format!("#{id}"), false));
    out.push_str(&format!("@media(prefers-color-scheme:dark){{\n{}}}\n", colours(&format!("#{id}"), true)));
    // Pages that say which theme they have: their word is above the system's.
    for (page, dark) in [
        ("body[data-jp-theme-light=true]", false),
        ("body.vscode-light", false),
        ("body[data-jp-theme-light=false]", true),
        ("body.vscode-dark", true),
    ] {
        out.push_str(&colours(&format!("{page} #{id}"), dark));
    }
    out
}

fn colours(scope: &str, dark: bool) -> String {
    let rule = |(part, property, light, night): &(&str, &str, &str, &str)| {
        format!("{scope}{part}{{{property}:{}}}\n", if dark { night } else { light })
    };
    COLOURS.iter().map(rule).collect()
}
