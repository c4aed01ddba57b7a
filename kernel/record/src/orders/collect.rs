//! Many runs of one cell, counted by their orders.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::estimate::{Estimate, chao1};
use super::{By, Order, ending, order, text};
use crate::timeline::words;
use crate::{Ending, Nanoseconds, Record};

/// The runs of a cell that was repeated, and the orders that were seen.
///
/// Runs that end in the usual way are compared by their order; those that end differently (a panic, a time
/// limit, another status) are counted on their own, as what they did until then is no whole order. The
/// usual way is [`Ending::Finished`] as soon as one run has finished, and else the most frequent one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Orders {
    by: By,
    /// Every order that some run had, in the order in which they came.
    orders: Vec<Order>,
    runs: Vec<Run>,
    /// The ways in which runs ended, in the order in which they came.
    kinds: Vec<Kind>,
    /// Where in `orders` those with this hash are, and where in `kinds` an ending is.
    known: HashMap<u64, Vec<usize>>,
    kind_of: HashMap<Ending, usize>,
}

/// The runs that ended in one way.
#[derive(Debug, Clone, PartialEq)]
struct Kind {
    ending: Ending,
    count: usize,
    first: usize,
    /// For each order of theirs how many had it, and the first that did.
    orders: BTreeMap<usize, (usize, usize)>,
}

/// One of the runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The index of its order in [`Orders::all`]. Runs with the same order have the same.
    pub order: usize,
    /// How it ended.
    pub ending: Ending,
    /// How long it took.
    pub duration: Nanoseconds,
}

/// An order, and how often it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<'a> {
    /// What happened.
    pub order: &'a Order,
    /// In how many runs.
    pub count: usize,
    /// The first run that had it, counted from 0.
    pub first: usize,
}

/// Runs that ended in another way than most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Different<'a> {
    /// How.
    pub ending: &'a Ending,
    /// How many.
    pub count: usize,
    /// The first run that did, counted from 0.
    pub first: usize,
    /// What had happened in that run until then.
    pub order: &'a Order,
}

/// When to stop repeating, other than after a number of runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Until {
    /// So many different orders have been seen.
    Distinct(usize),
}

/// As a file has it. Reading adds the runs one by one, so that what was read is as sound as what was counted.
#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    by: By,
    orders: Vec<Order>,
    runs: Vec<Run>,
}

impl Orders {
    /// No runs yet.
    pub fn new(by: By) -> Orders {
        Orders {
            by,
            orders: Vec::new(),
            runs: Vec::new(),
            kinds: Vec::new(),
            known: HashMap::new(),
            kind_of: HashMap::new(),
        }
    }

    /// A run more, with the order that [`order`] made of its record. Runs that the person
    /// interrupts are better left out. Returns whether this order is a new one.
    pub fn add(&mut self, order: Order, ending: Ending, duration: Nanoseconds) -> bool {
        let (index, new) = self.index(order);
        let number = self.runs.len();
        let kind = *self.kind_of.entry(ending.clone()).or_insert_with(|| {
            self.kinds.push(Kind { ending: ending.clone(), count: 0, first: number, orders: BTreeMap::new() });
            self.kinds.len() - 1
        });
        self.kinds[kind].count += 1;
        self.kinds[kind].orders.entry(index).or_insert((0, number)).0 += 1;
        self.runs.push(Run { order: index, ending, duration });
        new
    }

    /// Where this order is, and whether it is there only now.
    fn index(&mut self, order: Order) -> (usize, bool) {
        let mut hasher = DefaultHasher::new();
        order.hash(&mut hasher);
        let same = self.known.entry(hasher.finish()).or_default();
        if let Some(index) = same.iter().find(|index| self.orders[**index] == order) {
            return (*index, false);
        }
        self.orders.push(order);
        same.push(self.orders.len() - 1);
        (self.orders.len() - 1, true)
    }

    /// [`Orders::add`] of a record's [`order`], its [`ending`] and its duration.
    pub fn add_record(&mut self, record: &Record) -> bool {
        self.add(order(record, self.by), ending(record), record.duration)
    }

    /// One line that says what was seen: `100 runs, 12 different orders by lines`, and how many ended differently.
    pub fn summary(&self) -> String {
        let more = match self.different_runs() {
            0 => String::new(),
            runs => format!(", {} ended differently", words::count(runs, "run", "runs")),
        };
        text::title(self) + &more
    }

    /// What the orders are orders of.
    pub fn by(&self) -> By {
        self.by
    }

    /// All runs, in the order in which they were made.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Every order of a run however it ended, in the order in which they came.
    pub fn all(&self) -> &[Order] {
        &self.orders
    }

    /// How runs of this cell end when nothing is different; `None` before the first.
    pub fn usual(&self) -> Option<&Ending> {
        self.usual_kind().map(|kind| &kind.ending)
    }

    fn usual_kind(&self) -> Option<&Kind> {
        let finished = self.kind_of.get(&Ending::Finished).map(|kind| &self.kinds[*kind]);
        finished.or_else(|| self.kinds.iter().min_by_key(|kind| (Reverse(kind.count), kind.first)))
    }

    /// The orders of the runs that ended in the usual way, the most frequent first, of equally frequent ones the
    /// one that was seen first.
    pub fn seen(&self) -> Vec<Seen<'_>> {
        let orders = self.usual_kind().into_iter().flat_map(|kind| &kind.orders);
        let mut seen: Vec<Seen<'_>> = orders
            .map(|(index, (count, first))| Seen { order: &self.orders[*index], count: *count, first: *first })
            .collect();
        seen.sort_by_key(|seen| (Reverse(seen.count), seen.first));
        seen
    }

    /// How many different orders the runs had that ended in the usual way.
    pub fn distinct(&self) -> usize {
        self.usual_kind().map_or(0, |kind| kind.orders.len())
    }

    /// How many runs ended in the usual way.
    pub fn usual_runs(&self) -> usize {
        self.usual_kind().map_or(0, |kind| kind.count)
    }

    /// The order that was seen most often.
    pub fn most_frequent(&self) -> Option<Seen<'_>> {
        self.seen().into_iter().next()
    }

    /// The order that was seen least often; of equally rare ones the one that was seen last. `None` when there
    /// is but one.
    pub fn rarest(&self) -> Option<Seen<'_>> {
        let seen = self.seen();
        if seen.len() < 2 { None } else { seen.into_iter().next_back() }
    }

    /// Runs that ended otherwise than usual, by how, the most frequent first.
    pub fn different(&self) -> Vec<Different<'_>> {
        let usual = self.usual();
        let mut others: Vec<&Kind> = self.kinds.iter().filter(|kind| Some(&kind.ending) != usual).collect();
        others.sort_by_key(|kind| (Reverse(kind.count), kind.first));
        let order = |kind: &Kind| &self.orders[self.runs[kind.first].order];
        others
            .into_iter()
            .map(|kind| Different { ending: &kind.ending, count: kind.count, first: kind.first, order: order(kind) })
            .collect()
    }

    /// How many runs ended otherwise than usual.
    pub fn different_runs(&self) -> usize {
        self.runs.len() - self.usual_runs()
    }

    /// How many orders there are likely to be, those that no run has had included; `None` before the
    /// first run.
    pub fn estimate(&self) -> Option<Estimate> {
        let counts: Vec<usize> = self.seen().iter().map(|seen| seen.count).collect();
        chao1(&counts)
    }

    /// Whether a rule says that there have been enough runs.
    pub fn is_done(&self, until: Until) -> bool {
        match until {
            Until::Distinct(wanted) => self.distinct() >= wanted,
        }
    }

    /// The shortest, the median and the longest duration of the runs that ended in the usual way.
    pub fn durations(&self) -> Option<(Nanoseconds, Nanoseconds, Nanoseconds)> {
        let usual = self.usual();
        let mut times: Vec<Nanoseconds> =
            self.runs.iter().filter(|run| Some(&run.ending) == usual).map(|run| run.duration).collect();
        times.sort_unstable();
        Some((*times.first()?, times[times.len() / 2], *times.last()?))
    }
}

impl From<Stored> for Orders {
    fn from(stored: Stored) -> Orders {
        let mut orders = Orders::new(stored.by);
        for run in stored.runs {
            // A run whose order is not in the file is one of which nothing is known.
            if let Some(order) = stored.orders.get(run.order) {
                orders.add(order.clone(), run.ending, run.duration);
            }
        }
        orders
    }
}

impl From<Orders> for Stored {
    fn from(orders: Orders) -> Stored {
        Stored { by: orders.by, orders: orders.orders, runs: orders.runs }
    }
}

/// As `--until` takes it: `DISTINCT=5`.
impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Until, String> {
        let wrong = || format!("{text:?} is no rule to stop by: write DISTINCT=5 for five different orders");
        let (name, number) = text.split_once('=').ok_or_else(wrong)?;
        let number = number.trim().parse().ok().filter(|number| *number > 0).ok_or_else(wrong)?;
        if name.trim().eq_ignore_ascii_case("distinct") { Ok(Until::Distinct(number)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Until::Distinct(number) => write!(f, "DISTINCT={number}"),
        }
    }
}
