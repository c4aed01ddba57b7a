//! Two orders side by side: what they have in common, and what only one of them has there.

use super::Token;

/// So many comparisons are made at most; beyond them the middle of two long orders is just different.
const MOST_CELLS: usize = 4_000_000;

/// A line of two orders side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row<'a> {
    /// In both.
    Both(&'a Token),
    /// In the left one only, here.
    Left(&'a Token),
    /// In the right one only, here.
    Right(&'a Token),
}

/// A longest common subsequence of the two, and around it what only one has; of the latter the left
/// one's first.
pub fn diff<'a>(left: &'a [Token], right: &'a [Token]) -> Vec<Row<'a>> {
    let front = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    let (left_rest, right_rest) = (&left[front..], &right[front..]);
    let back = left_rest.iter().rev().zip(right_rest.iter().rev()).take_while(|(left, right)| left == right).count();
    let (left_middle, common) = left_rest.split_at(left_rest.len() - back);
    let right_middle = &right_rest[..right_rest.len() - back];
    let mut rows: Vec<Row<'a>> = left[..front].iter().map(Row::Both).collect();
    middle(left_middle, right_middle, &mut rows);
    rows.extend(common.iter().map(Row::Both));
    rows
}

fn middle<'a>(left: &'a [Token], right: &'a [Token], rows: &mut Vec<Row<'a>>) {
    if left.len().saturating_mul(right.len()) > MOST_CELLS {
        rows.extend(left.iter().map(Row::Left));
        rows.extend(right.iter().map(Row::Right));
        return;
    }
    // common[l][r]: the length of the longest common subsequence of left[l..] and right[r..].
    let width = right.len() + 1;
    let mut common = vec![0u32; (left.len() + 1) * width];
    for l in (0..left.len()).rev() {
        for r in (0..right.len()).rev() {
            common[l * width + r] = if left[l] == right[r] {
                common[(l + 1) * width + r + 1] + 1
            } else {
                common[(l + 1) * width + r].max(common[l * width + r + 1])
            };
        }
    }
    let (mut l, mut r) = (0, 0);
    while l < left.len() && r < right.len() {
        if left[l] == right[r] {
            rows.push(Row::Both(&left[l]));
            (l, r) = (l + 1, r + 1);
        } else if common[(l + 1) * width + r] >= common[l * width + r + 1] {
            rows.push(Row::Left(&left[l]));
            l += 1;
        } else {
            rows.push(Row::Right(&right[r]));
            r += 1;
        }
    }
    rows.extend(left[l..].iter().map(Row::Left));
    rows.extend(right[r..].iter().map(Row::Right));
}
