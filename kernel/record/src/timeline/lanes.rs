//! Which process gets which lane. When there are too many, equal siblings share one, then any leaves,
//! then whole families below a certain depth.

use std::collections::HashMap;

use super::family::Family;
use super::words;
use crate::Status;

/// Fewer than this are not worth a lane of their own for all.
const LEAST_GROUP: usize = 3;

/// A lane of the picture.
pub struct Lane {
    /// Whose it is: one process, or the members of a group and all below them.
    pub members: Vec<usize>,
    /// How many of the members stand in the label; the others are descendants of these.
    pub heads: usize,
    /// How deep in the tree.
    pub depth: usize,
}

/// All lanes, from top to bottom.
pub struct Lanes {
    /// The lanes.
    pub list: Vec<Lane>,
    /// For each process the index of its lane.
    pub of: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Grouping {
    Nobody,
    Equals,
    Leaves,
}

impl Lanes {
    /// Gives everybody a lane, and no more than `most` in all.
    pub fn new(family: &Family, most: usize) -> Self {
        let deepest = (0..family.record.processes.len()).map(|index| family.depth(index)).max().unwrap_or(0);
        let mut lanes = Lanes::planned(family, Grouping::Nobody, usize::MAX);
        let gentle = [(Grouping::Equals, usize::MAX), (Grouping::Leaves, usize::MAX)].into_iter();
        // Depths by halves: a chain of ten thousand would be planned ten thousand times otherwise.
        let halves = std::iter::successors(Some(deepest), |depth| (*depth > 1).then_some(depth / 2));
        for (grouping, depth) in gentle.chain(halves.map(|depth| (Grouping::Leaves, depth))) {
            if lanes.list.len() <= most {
                break;
            }
            lanes = Lanes::planned(family, grouping, depth);
        }
        lanes
    }

    fn planned(family: &Family, grouping: Grouping, fold_at: usize) -> Self {
        let count = family.record.processes.len();
        let mut lanes = Lanes { list: Vec::new(), of: vec![0; count] };
        let roots: Vec<usize> = (0..count).filter(|index| family.parent[*index].is_none()).collect();
        let mut waiting: Vec<(Vec<usize>, usize)> = roots.into_iter().rev().map(|root| (vec![root], 0)).collect();
        // A stack of our own: a tree may be as deep as it has processes.
        while let Some((heads, depth)) = waiting.pop() {
            let folded = depth >= fold_at;
            let below: Vec<usize> = if folded { descendants(family, &heads) } else { Vec::new() };
            if !folded {
                let children = heads.iter().flat_map(|head| family.children[*head].iter().copied()).collect();
                let groups = grouped(family, children, grouping, depth + 1 >= fold_at);
                waiting.extend(groups.into_iter().rev().map(|group| (group, depth + 1)));
            }
            let lane = Lane { heads: heads.len(), members: heads.into_iter().chain(below).collect(), depth };
            for member in &lane.members {
                lanes.of[*member] = lanes.list.len();
            }
            lanes.list.push(lane);
        }
        lanes
    }

    /// Says that lanes are shared, if they are.
    pub fn note(&self) -> Option<String> {
        let shared: Vec<&Lane> = self.list.iter().filter(|lane| lane.members.len() > 1).collect();
        let together: usize = shared.iter().map(|lane| lane.members.len()).sum();
        if shared.is_empty() {
            return None;
        }
        let lanes = words::count(shared.len(), "lane", "lanes");
        Some(format!(
            "{} share {lanes}, whose height is how many of them there were at a time.",
            words::count(together, "process", "processes")
        ))
    }
}

impl Lane {
    /// `C1`, `C3…C98 (96)`, `C4 +12`.
    pub fn label(&self, family: &Family) -> String {
        let role = |index: usize| words::cut(&words::clean(&family.process(index).role), 12);
        let heads = &self.members[..self.heads];
        let mut label = match heads {
            [] => String::new(),
            [one] => role(*one),
            [first, .., last] => format!("{}…{} ({})", role(*first), role(*last), words::grouped(self.heads)),
        };
        if self.members.len() > self.heads {
            label.push_str(&format!(" +{}", words::grouped(self.members.len() - self.heads)));
        }
        label
    }

    /// How its processes ended, in a word or two: empty when they have not.
    pub fn ending(&self, family: &Family) -> String {
        let ends = self.members.iter().map(|index| family.process(*index).ended.map(|(_, status)| status));
        let mut kinds: Vec<(Option<Status>, usize)> = Vec::new();
        for end in ends {
            match kinds.iter_mut().find(|(kind, _)| *kind == end) {
                Some((_, count)) => *count += 1,
                None => kinds.push((end, 1)),
            }
        }
        match kinds.as_slice() {
            [(Some(status), _)] => words::status(*status),
            [] | [(None, _)] => String::new(),
            _ => "several ends".to_owned(),
        }
    }
}

/// Siblings as they will share lanes.
fn grouped(family: &Family, siblings: Vec<usize>, grouping: Grouping, all_folded: bool) -> Vec<Vec<usize>> {
    if grouping == Grouping::Nobody {
        return siblings.into_iter().map(|one| vec![one]).collect();
    }
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<(Option<&str>, Option<Status>), usize> = HashMap::new();
    for sibling in siblings {
        let process = family.process(sibling);
        let leaf = all_folded || family.children[sibling].is_empty();
        let kind = match grouping {
            Grouping::Equals => (process.program(), process.ended.map(|(_, status)| status)),
            _ => (None, None),
        };
        if !leaf {
            groups.push(vec![sibling]);
            continue;
        }
        match known.get(&kind) {
            Some(group) => groups[*group].push(sibling),
            None => {
                known.insert(kind, groups.len());
                groups.push(vec![sibling]);
            }
        }
    }
    let small = |group: &Vec<usize>| group.len() < LEAST_GROUP && !all_folded;
    let (apart, together): (Vec<_>, Vec<_>) = groups.into_iter().partition(small);
    let mut groups: Vec<Vec<usize>> = apart.into_iter().flatten().map(|one| vec![one]).chain(together).collect();
    groups.sort_by_key(|group| group[0]);
    groups
}

fn descendants(family: &Family, heads: &[usize]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut waiting: Vec<usize> = heads.iter().rev().copied().collect();
    while let Some(index) = waiting.pop() {
        for child in &family.children[index] {
            found.push(*child);
            waiting.push(*child);
        }
    }
    found
}
