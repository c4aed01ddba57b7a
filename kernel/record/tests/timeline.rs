//! The pictures, read as what they are: XML whose elements stand somewhere.

mod invented;

use std::collections::HashMap;

use forklab_record::timeline::{self, Options};
use forklab_record::{Ending, Event, Record, Status, Stream, What, export, trace};
use invented::{Invention, MS, P, S, US};
use roxmltree::{Document, Node};

/// A picture is at most this big, in bytes.
const MOST_BYTES: usize = 400_000;

fn svg(record: &Record) -> String {
    timeline::svg(record, &Options::default())
}

fn class<'a>(document: &'a Document, name: &str) -> Vec<Node<'a, 'a>> {
    let has = |node: &Node| node.attribute("class").is_some_and(|classes| classes.split(' ').any(|one| one == name));
    document.descendants().filter(has).collect()
}

fn lanes<'a>(document: &'a Document) -> Vec<Node<'a, 'a>> {
    class(document, "fl-lane")
}

/// From where to where a path of rectangles goes.
fn reach(path: &str) -> (f64, f64) {
    let rectangles = path.split('M').filter(|piece| !piece.is_empty()).map(|piece| {
        let from: f64 = piece.split(' ').next().expect("x").parse().expect("a number");
        let (_, after) = piece.split_once('h').expect("a width");
        (from, from + after.split('v').next().expect("a width").parse::<f64>().expect("a number"))
    });
    rectangles.fold((f64::MAX, f64::MIN), |reach, one| (reach.0.min(one.0), reach.1.max(one.1)))
}

fn bar(lane: &Node, class: &str) -> Option<(f64, f64)> {
    let found = lane.children().find(|node| node.attribute("class") == Some(class))?;
    Some(reach(found.attribute("d").expect("a path")))
}

fn text_of(node: &Node) -> String {
    node.descendants().filter_map(|node| node.text().filter(|_| node.is_text())).collect()
}

#[test]
fn every_picture_is_xml_without_scripts_and_within_its_size() {
    for (name, record) in invented::all() {
        let drawn = svg(&record);
        let document = Document::parse(&drawn).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(drawn.len() < MOST_BYTES, "{name} has {} bytes", drawn.len());
        let root = document.root_element();
        assert_eq!(root.attribute("role"), Some("img"));
        let id = root.attribute("id").expect("an id");
        let mut ids: HashMap<&str, usize> = HashMap::new();
        for node in document.descendants().filter(Node::is_element) {
            assert!(!matches!(node.tag_name().name(), "script" | "foreignObject" | "image" | "use"), "{name}");
            for attribute in node.attributes() {
                assert!(!attribute.name().starts_with("on") && attribute.name() != "href", "{name}");
                assert!(!attribute.value().contains("NaN") && !attribute.value().contains("inf"), "{name}");
            }
            if let Some(own) = node.attribute("id") {
                assert!(own.starts_with(id), "{name}: {own} is not scoped");
                *ids.entry(own).or_default() += 1;
            }
        }
        assert!(ids.values().all(|count| *count == 1), "{name}: {ids:?}");
        for named in root.attribute("aria-labelledby").expect("a name").split(' ') {
            assert!(ids.contains_key(named), "{name}: {named}");
        }
    }
}

#[test]
fn every_rule_is_for_this_picture_only() {
    let drawn = timeline::svg(&invented::zombie(), &Options { id: Some("here-1".to_owned()), ..Options::default() });
    let document = Document::parse(&drawn).expect("XML");
    let style = text_of(&document.descendants().find(|node| node.has_tag_name("style")).expect("a style"));
    let flat = style.replace("@media(prefers-color-scheme:dark){", "").replace("}}", "}");
    for selectors in flat.split('}').filter_map(|rule| rule.split_once('{')).map(|(selectors, _)| selectors) {
        assert!(selectors.split(',').all(|selector| selector.contains("#here-1 ")), "{selectors}");
    }
    assert!(style.contains("prefers-color-scheme:dark") && style.contains("data-jp-theme-light=false"));
}

#[test]
fn the_same_record_gives_the_same_picture_and_others_have_other_ids() {
    let (one, other) = (invented::signals(), invented::zombie());
    assert_eq!(svg(&one), svg(&one.clone()));
    let id = |drawn: &str| Document::parse(drawn).expect("XML").root_element().attribute("id").map(str::to_owned);
    assert_ne!(id(&svg(&one)), id(&svg(&other)));
    // An id that could end the attribute is not taken.
    let odd = timeline::svg(&one, &Options { id: Some("a\" onload=\"b".to_owned()), ..Options::default() });
    assert_eq!(odd, svg(&one));
}

#[test]
fn lanes_stand_in_the_order_of_the_tree() {
    let record = invented::signals();
    let drawn = svg(&record);
    let document = Document::parse(&drawn).expect("XML");
    let roles: Vec<_> = lanes(&document).iter().filter_map(|lane| lane.attribute("data-role")).collect();
    // C3 is C2's child, C5 and C6 are C4's.
    assert_eq!(roles, ["P", "C1", "C2", "C3", "C4", "C5", "C6"]);
    let heights: Vec<f64> = lanes(&document)
        .iter()
        .map(|lane| lane.children().find(|node| node.attribute("class") == Some("fl-alive")).expect("a bar"))
        .map(|bar| {
            bar.attribute("d").expect("a path")[1..].split([' ', 'h']).nth(1).expect("y").parse().expect("a number")
        })
        .collect();
    assert!(heights.is_sorted() && heights.windows(2).all(|pair| pair[1] - pair[0] > 10.0), "{heights:?}");
}

#[test]
fn lives_and_zombies_stand_where_they_were() {
    let mut it = Invention::new(1);
    it.fork(10 * MS, P, 2).exit(30 * MS, 2).reap(70 * MS, P, 2);
    let drawn = svg(&it.done(100 * MS));
    let document = Document::parse(&drawn).expect("XML");
    let found = lanes(&document);
    let parent = bar(&found[0], "fl-alive").expect("the parent's life");
    let child = bar(&found[1], "fl-alive").expect("the child's life");
    let zombie = bar(&found[1], "fl-zombie").expect("its time as a zombie");
    let at = |share: f64| parent.0 + share * (parent.1 - parent.0);
    for (x, share) in [(child.0, 0.1), (child.1, 0.3), (zombie.0, 0.3), (zombie.1, 0.7)] {
        assert!((x - at(share)).abs() < 1.0, "{x} is not at {share} of {parent:?}");
    }
    assert_eq!(class(&document, "fl-fork").len(), 2, "an arrow and its entry in the legend");
    let texts: Vec<String> =
        document.descendants().filter(|node| node.has_tag_name("text")).map(|node| text_of(&node)).collect();
    assert!(texts.iter().any(|text| text == "zombie 40 ms"), "{texts:?}");
    assert!(texts.iter().any(|text| text == "exit 0"));
    assert!(texts.iter().any(|text| text == "100 ms · end of the cell"));
}

#[test]
fn what_ended_and_was_not_reaped_is_a_zombie_to_the_end() {
    let mut it = Invention::new(1);
    it.fork(10 * MS, P, 2).end(30 * MS, 2, Status::Killed(9));
    let drawn = svg(&it.done(100 * MS));
    let document = Document::parse(&drawn).expect("XML");
    let found = lanes(&document);
    let parent = bar(&found[0], "fl-alive").expect("the parent's life");
    assert!((bar(&found[1], "fl-zombie").expect("a zombie").1 - parent.1).abs() < 0.2);
    assert!(drawn.contains("SIGKILL") && drawn.contains("not seen to be reaped"));
}

#[test]
fn quiet_seconds_are_cut_short_and_proportions_stay_where_nothing_is_quiet() {
    let drawn = svg(&invented::zombie());
    let document = Document::parse(&drawn).expect("XML");
    assert_eq!(class(&document, "fl-quiet").len(), 1);
    let found = lanes(&document);
    let (from, to) = bar(&found[1], "fl-running").or(bar(&found[1], "fl-alive")).expect("the child's life");
    assert!(to - from > 20.0, "400 µs of three seconds can be seen: {from} to {to}");
    let drawn = svg(&invented::five_workers());
    assert!(class(&Document::parse(&drawn).expect("XML"), "fl-quiet").is_empty());
}

#[test]
fn markup_control_characters_and_emoji_are_text() {
    let hostile = "</text><script>alert(\"1\")</script>&amp;\u{0}\u{1b}[31m\u{202e}\u{ffff} 🦀\n";
    let mut it = Invention::new(1);
    it.fork(MS, P, 2).exec(2 * MS, 2, hostile).write(3 * MS, 2, hostile).complain(40 * MS, 2, &hostile.repeat(1000));
    it.gap(hostile).of(2).role = "<C1 & \"co\">".to_owned();
    let record = it.done_as(80 * MS, Ending::Panicked(hostile.to_owned()));
    let drawn = timeline::html(&record, &Options::default());
    let document = Document::parse(&drawn).expect("XML");
    assert!(!document.descendants().any(|node| node.has_tag_name("script")));
    assert!(drawn.contains("🦀") && drawn.len() < 60_000);
    for text in [timeline::text(&record, 100), timeline::table_text(&record), drawn] {
        assert!(!text.contains(['\u{0}', '\u{1b}', '\u{202e}', '\u{ffff}']));
    }
}

#[test]
fn equal_siblings_share_a_lane_and_it_is_said() {
    let drawn = svg(&invented::hundred());
    let document = Document::parse(&drawn).expect("XML");
    let roles: Vec<_> = lanes(&document).iter().filter_map(|lane| lane.attribute("data-role")).collect();
    // C2 ended otherwise.
    assert_eq!(roles, ["P", "C1…C100 (99)", "C2"]);
    assert!(drawn.contains("99 processes share 1 lane"));
    let record = invented::hundred();
    let there = |at: u64| {
        let lives = record.processes.iter().filter(|process| process.role != "P" && process.role != "C2");
        lives.filter(|process| process.forked <= at && at < process.reaped.expect("reaped").0).count()
    };
    let most = record.processes.iter().map(|process| there(process.forked)).max().expect("somebody");
    assert!(drawn.contains(&format!(">at most {most}<")), "{most}");
    // Below the bound everybody has their own.
    let forty = svg(&invented::forty());
    assert_eq!(lanes(&Document::parse(&forty).expect("XML")).len(), 41);
}

#[test]
fn any_crowd_has_few_lanes() {
    let options = Options { most_lanes: 30, ..Options::default() };
    for record in [invented::crowd(3_000), invented::chain(3_000), invented::forty()] {
        let drawn = timeline::svg(&record, &options);
        let document = Document::parse(&drawn).expect("XML");
        assert!(lanes(&document).len() <= 30, "{} lanes", lanes(&document).len());
        assert!(drawn.len() < MOST_BYTES);
    }
}

#[test]
fn what_falls_together_is_one_mark_with_a_count() {
    let mut it = Invention::new(1);
    for n in 0..50 {
        it.write(5 * MS + n / 25, P, "x\n");
    }
    it.write(9 * MS, P, "y\n");
    let drawn = svg(&it.done(10 * MS));
    let document = Document::parse(&drawn).expect("XML");
    let marks: Vec<_> = class(&document, "fl-over").into_iter().map(|node| text_of(&node)).collect();
    assert_eq!(marks.len(), 2, "{marks:?}");
    assert!(marks[0].starts_with("50 times:") && marks[0].contains("and 47 more"), "{marks:?}");
}

#[test]
fn ten_thousand_events_everywhere_stay_small() {
    // The worst for size: every event another kind, process and place, with long text.
    let mut it = Invention::new(1);
    for n in 0..50 {
        it.fork(n as u64, P, 10 + n);
    }
    for n in 0..10_000u64 {
        let pid = 10 + (n % 50) as i32;
        let what = match n % 5 {
            0 => What::Blocked("<<<<".repeat(10)),
            1 => What::Running,
            2 => What::SignalSent { signal: 10, to: 10 + (n * 7 % 50) as i32 },
            3 => What::Wrote { stream: Stream::Stderr, text: "&<>\"'".repeat(100) },
            _ => What::Wrote { stream: Stream::Stdout, text: "🦀".repeat(300) },
        };
        it.event(n * 10 * US, pid, what);
    }
    let drawn = svg(&it.done(101 * MS));
    Document::parse(&drawn).expect("XML");
    assert!(drawn.len() < MOST_BYTES, "{} bytes", drawn.len());
}

#[test]
fn messages_and_signals_are_arrows_from_sender_to_receiver() {
    let drawn = svg(&invented::pipe_talk());
    let document = Document::parse(&drawn).expect("XML");
    let arrows: Vec<_> = class(&document, "fl-message").into_iter().filter(|node| node.has_children()).collect();
    assert_eq!(arrows.len(), 12);
    for arrow in arrows {
        let path = arrow.attribute("d").expect("a path")[1..].replace('L', " ");
        let numbers: Vec<f64> = path.split(' ').map(|number| number.parse().expect("a number")).collect();
        assert!(numbers[0] < numbers[2], "received after it was sent: {numbers:?}");
        let told = text_of(&arrow);
        assert_eq!(told.contains("P sends C1"), numbers[1] < numbers[3], "{told}");
    }
    let drawn = svg(&invented::signals());
    let document = Document::parse(&drawn).expect("XML");
    let arrows: Vec<_> = class(&document, "fl-signal")
        .into_iter()
        .filter(|node| node.has_children())
        .map(|node| text_of(&node))
        .collect();
    assert_eq!(arrows.len(), 4, "{arrows:?}");
    for name in ["SIGUSR1", "SIGSTOP", "SIGCONT", "SIGKILL"] {
        assert!(arrows.iter().any(|told| told.ends_with(&format!("P sends C1 {name}"))), "{arrows:?}");
    }
}

#[test]
fn a_pid_that_is_used_again_has_two_lanes_with_their_own_marks() {
    let mut it = Invention::new(1);
    it.fork(MS, P, 2).write(2 * MS, 2, "first\n").exit(3 * MS, 2).reap(4 * MS, P, 2);
    it.fork(6 * MS, P, 2).write(7 * MS, 2, "second\n").exit(8 * MS, 2).reap(9 * MS, P, 2);
    let record = it.done(10 * MS);
    let text = timeline::text(&record, 80);
    assert!(text.contains("C1  writes “first”") && text.contains("C2  writes “second”"), "{text}");
    assert!(text.contains("P   reaps C1") && text.contains("P   reaps C2"), "{text}");
}

#[test]
fn the_text_form_keeps_its_width_and_tells_everything() {
    for (name, record) in invented::all() {
        for width in [40, 72, 100] {
            let text = timeline::text(&record, width);
            // Every character in these records is one column wide, but for the crab.
            for line in text.lines().filter(|line| !line.contains('🦀')) {
                assert!(line.chars().count() <= width, "{name}: {line:?}");
            }
            assert!(text.len() < 60_000, "{name}: {}", text.len());
        }
    }
    let text = timeline::text(&invented::zombie(), 100);
    for fact in ["forks C1 (pid 4712)", "ends: exit 3", "reaps C1", "▒▒▒▒", "becomes /usr/bin/ps -o pid,stat,cmd"]
    {
        assert!(text.contains(fact), "{fact} is not in:\n{text}");
    }
    assert!(timeline::text(&invented::ten_thousand(), 100).contains("are left out here"));
}

#[test]
fn the_table_has_a_row_for_each_process() {
    let record = invented::signals();
    let html = timeline::table_html(&record);
    let rows = Document::parse(&html).expect("XML").descendants().filter(|node| node.has_tag_name("tr")).count();
    assert_eq!(rows, 1 + record.processes.len());
    assert!(html.contains("<strong>SIGKILL</strong>") && html.contains("C2, then pid 4700"));
    assert_eq!(timeline::table_text(&record).lines().count(), rows);
    assert!(timeline::table_text(&invented::crowd(1_000)).contains("… and 801 more processes."));
}

#[test]
fn chromes_format_has_stretches_moments_and_both_ends_of_arrows() {
    let trace = serde_json::to_value(trace::chrome(&invented::signals())).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("a list");
    let of = |phase: &str| events.iter().filter(|event| event["ph"] == phase).collect::<Vec<_>>();
    assert_eq!(of("M").len(), 3 * 7);
    let zombie = of("X").into_iter().find(|event| event["pid"] == 4713 && event["name"] == "zombie").expect("a zombie");
    assert_eq!((zombie["ts"].as_f64(), zombie["dur"].as_f64()), (Some(12_000.0), Some(18_000.0)));
    let mut starts: Vec<_> = of("s").iter().map(|event| event["id"].as_u64()).collect();
    let mut ends: Vec<_> = of("f").iter().map(|event| event["id"].as_u64()).collect();
    starts.sort_unstable();
    ends.sort_unstable();
    assert_eq!(starts, ends);
    assert!(of("i").iter().any(|event| event["args"]["text"] == "got it\n"));
}

#[test]
fn the_exported_file_reads_back() {
    let record = invented::signals();
    let text = serde_json::to_string(&export::json(&record)).expect("JSON");
    let read: export::Export = serde_json::from_str(&text).expect("the same");
    assert_eq!((read.schema.as_str(), read.record), (export::SCHEMA, record));
}

#[test]
fn records_that_cannot_be_are_drawn_all_the_same() {
    let mut it = Invention::new(1);
    // Times that go backwards, a parent that is not there, an end before the fork, a life of ages.
    it.fork(5 * MS, 99, 2).end(MS, 2, Status::Exited(-1)).reap(0, 77, 2).fork(MS, 2, 2);
    it.event(u64::MAX, 5, What::Stopped(99)).event(S, P, What::Continued).event(0, 2, What::Adopted(-3));
    let mut record = it.done(3);
    record.events.push(Event { at: 0, pid: 2, what: What::SignalSent { signal: -1, to: i32::MIN } });
    record.processes.swap(0, 1);
    for record in [record, Record::default()] {
        Document::parse(&timeline::html(&record, &Options { width: 0, most_lanes: 0, id: None })).expect("XML");
        timeline::text(&record, 0);
        timeline::table_text(&record);
        serde_json::to_string(&trace::chrome(&record)).expect("JSON");
    }
}
