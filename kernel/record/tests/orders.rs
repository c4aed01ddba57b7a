//! Orders of records: what makes two runs equal, what is counted, and how it is drawn.

use forklab_record::builder::Builder;
use forklab_record::export::{ExportRuns, RUNS_SCHEMA, runs_json};
use forklab_record::orders::{self, By, Options, Order, Orders, Row, Token, Until, diff, order};
use forklab_record::{Ending, Event, Nanoseconds, Pid, Record, Status, Stream, What};
use proptest::prelude::*;
use roxmltree::Document;

/// A run of the lesson with the workers: each says hello, in the order that is given.
fn workers(parent: Pid, pids: &[Pid], order: &[usize]) -> Record {
    let mut builder = Builder::new(2, 0.0, parent, 0);
    for (number, pid) in pids.iter().enumerate() {
        builder.add([Event { at: number as u64 + 1, pid: parent, what: What::Forked(*pid) }], []);
    }
    for (place, worker) in order.iter().enumerate() {
        let text = format!("worker {worker}: I am {}\n", pids[*worker]);
        builder.wrote(100 + place as u64, pids[*worker], Stream::Stdout, text);
    }
    builder.build(Ending::Finished, 1_000 * (1 + parent as u64))
}

/// Pieces of output of one child, all by the order in which they come.
fn output(pieces: &[(Pid, &str)]) -> Record {
    let mut builder = Builder::new(2, 0.0, 10, 0);
    let mut pids: Vec<Pid> = pieces.iter().map(|(pid, _)| *pid).filter(|pid| *pid != 10).collect();
    pids.sort_unstable();
    pids.dedup();
    builder.add(pids.iter().map(|pid| Event { at: 1, pid: 10, what: What::Forked(*pid) }), []);
    for (at, (pid, text)) in pieces.iter().enumerate() {
        builder.wrote(at as u64 + 10, *pid, Stream::Stdout, *text);
    }
    builder.build(Ending::Finished, 100)
}

fn told(order: &Order) -> Vec<String> {
    order.tokens.iter().map(Token::to_string).collect()
}

fn words(text: &str) -> Order {
    let token = |word: &str| Token { who: word.to_owned(), stream: Some(Stream::Stdout), what: String::new() };
    Order { by: By::Lines, tokens: text.split_whitespace().map(token).collect() }
}

fn of(counts: &[usize]) -> Orders {
    let mut orders = Orders::new(By::Lines);
    for (number, count) in counts.iter().enumerate() {
        for _ in 0..*count {
            orders.add(words(&format!("C{number} P C1 {}", "C2 ".repeat(number % 7))), Ending::Finished, 5_000);
        }
    }
    orders
}

#[test]
fn pids_are_roles_also_in_the_text() {
    let one = order(&workers(4711, &[4712, 4713], &[1, 0]), By::Lines);
    assert_eq!(told(&one), ["C2: worker 1: I am ⟨C2⟩", "C1: worker 0: I am ⟨C1⟩"]);
    assert_eq!(one, order(&workers(900, &[77_001, 901], &[1, 0]), By::Lines));
    assert_ne!(one, order(&workers(4711, &[4712, 4713], &[0, 1]), By::Lines));
}

#[test]
fn only_whole_numbers_are_pids() {
    let said = "12 -12 (12) 12, pid=12 12/13 12. é12 12é a12 12b _12 012 112 120 1.12 12.5 12.x 3..12 12";
    let found = order(&output(&[(12, said)]), By::Lines);
    let expected = "⟨C1⟩ -⟨C1⟩ (⟨C1⟩) ⟨C1⟩, pid=⟨C1⟩ ⟨C1⟩/13 ⟨C1⟩. é12 12é a12 12b _12 012 112 120 1.12 12.5 \
                    ⟨C1⟩.x 3..⟨C1⟩ ⟨C1⟩";
    assert_eq!(found.tokens[0].what, expected);
    let long = order(&output(&[(12, "99999999999999999999 4294967308 0")]), By::Lines);
    assert_eq!(long.tokens[0].what, "99999999999999999999 4294967308 0");
}

#[test]
fn lines_count_where_they_are_finished_and_bytes_where_they_are_written() {
    let record = output(&[(11, "a"), (12, "b\nc"), (11, "a\n"), (12, "c")]);
    assert_eq!(told(&order(&record, By::Lines)), ["C2: b", "C1: aa", "C2: cc"]);
    assert_eq!(told(&order(&record, By::Bytes)), ["C1: a", "C2: b\nc", "C1: a\n", "C2: c"]);
    // Where a reader's pieces end does not matter, nor that a number is cut.
    let whole = output(&[(11, "pid 11\nx")]);
    let pieces = output(&[(11, "p"), (11, "id 1"), (11, "1\n"), (11, "x")]);
    for by in [By::Lines, By::Bytes, By::Events] {
        assert_eq!(order(&whole, by).tokens.last(), order(&pieces, by).tokens.last(), "{by}");
    }
    assert_eq!(order(&pieces, By::Bytes).tokens[0].what, "pid ⟨C1⟩\nx");
}

#[test]
fn events_are_words_with_roles() {
    let event = |at, pid, what| Event { at, pid, what };
    let mut builder = Builder::new(1, 0.0, 10, 0);
    builder.add(
        [
            event(1, 10, What::Forked(11)),
            event(2, 11, What::Blocked("read".to_owned())),
            event(3, 11, What::Sent { message: 987, bytes: 4 }),
            event(4, 10, What::Received { message: 987, bytes: 4 }),
            event(5, 10, What::SignalSent { signal: 15, to: 11 }),
            event(6, 11, What::SignalReceived { signal: 15, from: Some(10) }),
            event(7, 11, What::Ended(Status::Killed(15))),
            event(8, 10, What::Reaped(11)),
            event(9, 10, What::SignalSent { signal: 10, to: -10 }),
            event(10, 10, What::SignalReceived { signal: 10, from: Some(9) }),
        ],
        [],
    );
    assert_eq!(
        told(&order(&builder.build(Ending::Finished, 20), By::Events)),
        [
            "P forks C1",
            "C1 sends message 1",
            "P receives message 1",
            "P sends SIGTERM to C1",
            "C1 receives SIGTERM from P",
            "C1 is ended by SIGTERM",
            "P reaps C1",
            "P sends SIGUSR1 to the group of P",
            "P receives SIGUSR1 from a process outside",
        ]
    );
}

#[test]
fn a_pid_that_is_given_again_has_the_role_of_its_time() {
    let event = |at, pid, what| Event { at, pid, what };
    let mut builder = Builder::new(1, 0.0, 10, 0);
    for at in [10, 20] {
        builder.add([event(at, 10, What::Forked(11)), event(at + 5, 11, What::Ended(Status::Exited(0)))], []);
        builder.wrote(at + 2, 11, Stream::Stdout, "I am 11\n");
        builder.add([event(at + 6, 10, What::Reaped(11))], []);
    }
    let record = builder.build(Ending::Finished, 30);
    assert_eq!(told(&order(&record, By::Lines)), ["C1: I am ⟨C1⟩", "C2: I am ⟨C2⟩"]);
}

#[test]
fn orders_are_counted_and_runs_that_end_differently_apart() {
    let mut orders = Orders::new(By::Lines);
    for _ in 0..3 {
        orders.add(words("P C1 C2"), Ending::Finished, 10);
    }
    assert!(orders.add(words("P C2 C1"), Ending::Finished, 20));
    assert!(!orders.add(words("P C2 C1"), Ending::TimedOut, 1_000));
    assert!(orders.add(words("P"), Ending::Panicked("no".to_owned()), 5));
    orders.add(words("P C1"), Ending::TimedOut, 1_000);
    assert_eq!((orders.distinct(), orders.usual_runs(), orders.different_runs()), (2, 4, 3));
    let most = orders.most_frequent().expect("there are runs");
    assert_eq!((most.order, most.count, most.first), (&words("P C1 C2"), 3, 0));
    let rarest = orders.rarest().expect("there are two");
    assert_eq!((rarest.order, rarest.count, rarest.first), (&words("P C2 C1"), 1, 3));
    let different: Vec<_> = orders.different().iter().map(|one| (one.ending.clone(), one.count, one.first)).collect();
    assert_eq!(different, [(Ending::TimedOut, 2, 4), (Ending::Panicked("no".to_owned()), 1, 5)]);
    assert_eq!(orders.durations(), Some((10, 10, 20)));
    assert_eq!(orders::progress(&orders, Some(100)), "7 of 100 runs · 2 orders · 3 runs ended differently");
    assert_eq!(orders::progress(&Orders::new(By::Lines), None), "0 runs · 0 orders");
}

#[test]
fn without_a_run_that_finishes_the_most_frequent_ending_is_the_usual_one() {
    let mut orders = Orders::new(By::Lines);
    assert_eq!((orders.usual(), orders.rarest(), orders.estimate()), (None, None, None));
    let left = Ending::Died(Status::Exited(0));
    orders.add(words("P"), Ending::TimedOut, 1);
    orders.add(words("P"), left.clone(), 1);
    orders.add(words("C1"), left.clone(), 1);
    assert_eq!(orders.usual(), Some(&left));
    assert_eq!(orders.distinct(), 2);
    orders.add(words("P"), Ending::Finished, 1);
    assert_eq!((orders.usual(), orders.distinct()), (Some(&Ending::Finished), 1));
}

#[test]
fn panics_of_the_same_kind_are_one_ending() {
    let mut orders = Orders::new(By::Lines);
    for pid in [4711, 5822] {
        let ending = Ending::Panicked(format!("child {} is gone", pid + 1));
        orders.add_record(&Record { ending, ..workers(pid, &[pid + 1], &[0]) });
    }
    assert_eq!(orders.usual(), Some(&Ending::Panicked("child ⟨C1⟩ is gone".to_owned())));
    assert_eq!(orders.different_runs(), 0);
}

#[test]
fn a_rule_stops_at_so_many_orders() {
    let mut orders = of(&[3]);
    let until: Until = "DISTINCT=2".parse().expect("a rule");
    assert_eq!((until, until.to_string().as_str()), (Until::Distinct(2), "DISTINCT=2"));
    assert!(!orders.is_done(until));
    orders.add(words("another"), Ending::TimedOut, 1);
    assert!(!orders.is_done(until), "a run that hung has no whole order");
    orders.add(words("another"), Ending::Finished, 1);
    assert!(orders.is_done(until));
    assert_eq!("distinct = 7".parse(), Ok(Until::Distinct(7)));
    for wrong in ["DISTINCT", "DISTINCT=", "DISTINCT=0", "DISTINCT=-1", "TIME=5", ""] {
        let error = wrong.parse::<Until>().expect_err(wrong);
        assert!(error.contains("DISTINCT=5"), "{error}");
    }
    assert_eq!("bytes".parse(), Ok(By::Bytes));
    assert!("Byte".parse::<By>().is_err());
}

#[test]
fn the_difference_is_what_one_has_and_the_other_has_not() {
    let (left, right) = (words("P C1 C2 C3 P"), words("P C2 C1 C3 P"));
    let rows: String = diff(&left.tokens, &right.tokens)
        .iter()
        .map(|row| match row {
            Row::Both(token) => format!(" {}", token.who),
            Row::Left(token) => format!(" <{}", token.who),
            Row::Right(token) => format!(" >{}", token.who),
        })
        .collect();
    assert_eq!(rows, " P <C1 C2 >C1 C3 P");
}

#[test]
fn the_file_reads_back() {
    let mut orders = of(&[3, 1]);
    orders.add(words("P"), Ending::Died(Status::Killed(9)), 7);
    let text = serde_json::to_string(&runs_json(&orders)).expect("JSON");
    let read: ExportRuns = serde_json::from_str(&text).expect("what was written reads back");
    assert_eq!((read.schema.as_str(), &read.runs), (RUNS_SCHEMA, &orders));
    // What cannot be is left out.
    let wrong = text.replace("\"order\":1", "\"order\":7");
    let read: ExportRuns = serde_json::from_str(&wrong).expect("JSON");
    assert_eq!(read.runs.runs().len(), 4);
}

/// The page as XML, with the one attribute that HTML allows without a value.
fn parsed(page: &str) -> Document<'_> {
    Document::parse(page).unwrap_or_else(|error| panic!("{error}: {page}"))
}

fn count(document: &Document, class: &str) -> usize {
    document
        .descendants()
        .filter(|node| node.attribute("class").is_some_and(|has| has.split(' ').any(|one| one == class)))
        .count()
}

#[test]
fn many_orders_have_twenty_bars_and_a_line_for_the_rest() {
    let orders = of(&[9, 5, 3].iter().chain(&[2; 17]).chain(&[1; 180]).copied().collect::<Vec<usize>>());
    let page = orders::html(&orders, &Options::default());
    let document = parsed(&page);
    assert_eq!(count(&document, "fo-bar"), 20);
    assert!(page.contains("… 180 more, seen once each"));
    assert!(page.contains("231 runs, 200 different orders by lines"));
    assert!(page.len() < 60_000, "{}", page.len());
    let text = orders::text(&orders, 80);
    assert!(text.contains("… 180 more, seen once each"), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains(" % █") || line.contains(" % ▏")).count(), 20, "{text}");
}

#[test]
fn what_processes_write_is_never_markup() {
    let nasty = "</style><script>alert(1)</script> & \" ' <img src=x onerror=y> \u{1b}[31m \u{0} \u{202e}";
    let mut orders = Orders::new(By::Lines);
    for (number, ending) in
        [Ending::Finished, Ending::Finished, Ending::Panicked(nasty.to_owned())].into_iter().enumerate()
    {
        let token = Token { who: nasty.to_owned(), stream: Some(Stream::Stderr), what: nasty.repeat(number + 1) };
        orders.add(Order { by: By::Lines, tokens: vec![token; 3] }, ending, 1);
    }
    let page = orders::html(&orders, &Options { id: Some("x\" onload=\"y".to_owned()), ..Options::default() });
    let document = parsed(&page);
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        assert!(!matches!(node.tag_name().name(), "script" | "img"), "{page}");
        assert!(node.attributes().all(|attribute| !attribute.name().starts_with("on")), "{page}");
    }
    let text = orders::text(&orders, 60);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
}

#[test]
fn every_rule_is_for_this_output_only() {
    let page = orders::html(&of(&[2, 1]), &Options { id: Some("here-1".to_owned()), ..Options::default() });
    let document = parsed(&page);
    let style =
        document.descendants().find(|node| node.has_tag_name("style")).and_then(|node| node.text()).expect("a style");
    let flat = style.replace("@media(prefers-color-scheme:dark){", "");
    for rule in flat.split('}').map(str::trim).filter(|rule| !rule.is_empty()) {
        let selectors = rule.split('{').next().unwrap_or_default();
        assert!(selectors.split(',').all(|one| one.trim().contains("#here-1")), "{rule}");
    }
    assert_ne!(orders::html(&of(&[2, 1]), &Options::default()), orders::html(&of(&[2, 2]), &Options::default()));
    assert_eq!(orders::html(&of(&[2, 1]), &Options::default()), orders::html(&of(&[2, 1]), &Options::default()));
}

#[test]
fn nothing_one_run_and_one_order_are_drawn() {
    for orders in [Orders::new(By::Events), of(&[1]), of(&[50])] {
        let page = orders::html(&orders, &Options::default());
        parsed(&page);
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
        let text = orders::text(&orders, 80);
        assert!(text.contains(" by "), "{text}");
    }
    assert!(orders::text(&of(&[50]), 80).contains("the only order"));
    // What is not known is not said: of one order, and of a handful of runs.
    for few in [of(&[50]), of(&[3, 2])] {
        assert!(!orders::html(&few, &Options::default()).contains("Chao1"));
    }
    assert!(orders::html(&of(&[30, 20]), &Options::default()).contains("None came only once"));
}

#[test]
fn the_text_keeps_its_width() {
    let mut orders = of(&[30, 7, 2, 1, 1]);
    let long = Token { who: "C1".to_owned(), stream: None, what: "long ".repeat(100) };
    let long = Order { by: By::Lines, tokens: vec![long; 100] };
    orders.add(long.clone(), Ending::Failed("wide ".repeat(100)), 3_000_000);
    orders.add(long, Ending::Finished, 3_000_000);
    for width in [0, 40, 80, 133] {
        for line in orders::text(&orders, width).lines() {
            assert!(line.chars().count() <= width.max(40), "{line}");
        }
    }
}

/// A run in which the parent forks some children, and everybody writes texts with pids, numbers and ends of
/// lines: who writes, by number of fork; whose pid is in the text; and the text around it.
type Program = Vec<(usize, Option<usize>, String)>;

const CHILDREN: usize = 4;

fn program() -> impl Strategy<Value = Program> {
    let text = prop_oneof!["[a-z ]{0,6}", Just("\n".to_owned()), Just(" 7 ".to_owned()), Just(": \n".to_owned())];
    prop::collection::vec((0..=CHILDREN, prop::option::of(0..=CHILDREN), text), 0..30)
}

fn pids() -> impl Strategy<Value = Vec<Pid>> {
    prop::collection::hash_set(100..4_000_000i32, CHILDREN + 1)
        .prop_map(|pids| pids.into_iter().collect::<Vec<Pid>>())
        .prop_shuffle()
}

/// Runs a program with these pids at this pace; `cuts` pieces of every text.
fn run(program: &Program, pids: &[Pid], pace: Nanoseconds, cuts: usize) -> Record {
    let mut builder = Builder::new(1, 0.0, pids[0], 77);
    let mut at = 77;
    for child in &pids[1..] {
        at += pace;
        builder.add([Event { at, pid: pids[0], what: What::Forked(*child) }], []);
    }
    for (who, whose, text) in program {
        let mut said = whose.map_or(String::new(), |whose| format!(" {} ", pids[whose]));
        said.push_str(text);
        let step = said.len().div_ceil(cuts).max(1);
        for piece in said.as_bytes().chunks(step) {
            at += pace;
            builder.wrote(at, pids[*who], Stream::Stdout, String::from_utf8_lossy(piece));
        }
    }
    for child in &pids[1..] {
        at += pace;
        builder.add([Event { at, pid: *child, what: What::Ended(Status::Exited(0)) }], []);
        builder.add([Event { at: at + 1, pid: pids[0], what: What::Reaped(*child) }], []);
    }
    builder.build(Ending::Finished, at + pace)
}

proptest! {
    /// Pids, times and the reader's pieces make no difference.
    #[test]
    fn orders_do_not_depend_on_pids_times_and_pieces(
        program in program(), one in pids(), other in pids(), pace in 2..1_000u64, cuts in 1..4usize
    ) {
        let (one, other) = (run(&program, &one, 10, 1), run(&program, &other, pace, cuts));
        for by in [By::Lines, By::Bytes, By::Events] {
            prop_assert_eq!(order(&one, by), order(&other, by));
        }
    }

    /// Nothing that was written is lost: all texts of an order are all that was written, whoever wrote it.
    #[test]
    fn orders_have_all_that_was_written(program in program(), pids in pids()) {
        let record = run(&program, &pids, 10, 1);
        for process in &record.processes {
            let mut written = record.output(process.pid, Stream::Stdout);
            for other in &record.processes {
                written = written.replace(&format!(" {} ", other.pid), &format!(" ⟨{}⟩ ", other.role));
            }
            let tokens = |by| {
                let order = order(&record, by);
                order.tokens.into_iter().filter(|token| token.who == process.role).map(|token| token.what)
                    .collect::<Vec<String>>()
            };
            prop_assert_eq!(tokens(By::Bytes).concat(), written.clone());
            prop_assert_eq!(tokens(By::Lines), written.lines().map(str::to_owned).collect::<Vec<String>>());
        }
    }

    /// Both sides can be read off the rows, and no row could be left out.
    #[test]
    fn differences_have_both_sides(left in "[abc]{0,12}", right in "[abc]{0,12}") {
        let spaced = |text: &str| text.chars().map(|c| format!("{c} ")).collect::<String>();
        let (left, right) = (words(&spaced(&left)), words(&spaced(&right)));
        let rows = diff(&left.tokens, &right.tokens);
        let mut sides = (Vec::new(), Vec::new());
        for row in &rows {
            if let Row::Both(token) | Row::Left(token) = row { sides.0.push((*token).clone()); }
            if let Row::Both(token) | Row::Right(token) = row { sides.1.push((*token).clone()); }
        }
        prop_assert_eq!((&sides.0, &sides.1), (&left.tokens, &right.tokens));
        let both = rows.iter().filter(|row| matches!(row, Row::Both(_))).count();
        prop_assert_eq!(both, longest(&left.tokens, &right.tokens));
    }

    /// Counts add up, and an estimate is never below what was seen.
    #[test]
    fn counts_add_up(counts in prop::collection::vec(1..6usize, 0..12)) {
        let orders = of(&counts);
        prop_assert_eq!(orders.distinct(), counts.len());
        prop_assert_eq!(orders.seen().iter().map(|seen| seen.count).sum::<usize>(), orders.usual_runs());
        prop_assert!(orders.seen().is_sorted_by_key(|seen| std::cmp::Reverse(seen.count)));
        if let Some(estimate) = orders.estimate() {
            prop_assert!(estimate.total >= counts.len() as f64 && estimate.lower >= counts.len() as f64);
            prop_assert!(estimate.lower <= estimate.upper && estimate.upper.is_finite());
        }
        parsed(&orders::html(&orders, &Options::default()));
    }
}

/// The length of a longest common subsequence, as its definition has it.
fn longest(left: &[Token], right: &[Token]) -> usize {
    match (left.split_first(), right.split_first()) {
        (Some((one, left_rest)), Some((other, right_rest))) if one == other => 1 + longest(left_rest, right_rest),
        (Some((_, left_rest)), Some((_, right_rest))) => longest(left_rest, right).max(longest(left, right_rest)),
        _ => 0,
    }
}

/// Many random runs of a program whose number of orders is known: five workers have 120.
#[test]
fn the_estimate_is_near_the_number_of_orders() {
    let mut orders = Orders::new(By::Lines);
    let mut seed = 12_345_u64;
    let mut random = |below: usize| {
        // Knuth's MMIX.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for run in 0..150 {
        let mut order = vec![0, 1, 2, 3, 4];
        (1..5).for_each(|place| order.swap(place, random(place + 1)));
        let first = 1_000 + run * 10;
        orders.add_record(&workers(first, &[first + 1, first + 2, first + 3, first + 4, first + 5], &order));
    }
    let estimate = orders.estimate().expect("there are runs");
    assert!(orders.distinct() < 100, "{}", orders.distinct());
    assert!((estimate.lower..=estimate.upper).contains(&120.0), "{estimate:?}");
    assert!((100.0..145.0).contains(&estimate.total), "{estimate:?}");
}

#[test]
fn of_a_flood_the_order_has_the_beginning_and_a_fingerprint() {
    let flood = |last: &str| {
        let mut builder = Builder::new(1, 0.0, 10, 0);
        (0..200).for_each(|at| builder.wrote(at, 10, Stream::Stdout, "é, what a long line\n".repeat(100)));
        builder.wrote(300, 10, Stream::Stdout, last);
        builder.build(Ending::Finished, 400)
    };
    let (one, other) = (flood("one\n"), flood("other\n"));
    for by in [By::Lines, By::Bytes] {
        let order = order(&one, by);
        assert!(order.tokens.len() <= 2_001, "{}", order.tokens.len());
        assert!(order.tokens.iter().map(|token| token.what.len()).sum::<usize>() < 70_000);
        assert!(order.tokens[0].what.starts_with("é, what a long line"));
        assert_eq!(order.tokens.last().map(|token| token.who.as_str()), Some("…"));
        assert_eq!(order, orders::order(&one, by));
        assert_ne!(order, orders::order(&other, by));
    }
}
