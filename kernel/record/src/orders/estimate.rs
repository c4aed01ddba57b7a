//! How many orders there are that no run has had.

/// How many orders a cell is likely to have, by those that were seen once and twice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Orders that were seen.
    pub observed: usize,
    /// Orders that there are at least, by the estimate: observed and unseen.
    pub total: f64,
    /// Below this end of its 95 % interval the number is hardly.
    pub lower: f64,
    /// Above this end of its 95 % interval the number is hardly, if no order is much rarer than the others.
    pub upper: f64,
    /// Orders that were seen in one run only.
    pub singletons: usize,
    /// Orders that were seen in two runs.
    pub doubletons: usize,
}

impl Estimate {
    /// Orders that there are at least and that no run has had.
    pub fn unseen(&self) -> f64 {
        self.total - self.observed as f64
    }
}

/// Chao's estimate of the number of kinds in a sample, in its bias-corrected form: with `n` runs, `f1` orders
/// that were seen once and `f2` that were seen twice,
///
/// ```text
/// observed + (n − 1)/n · f1 (f1 − 1) / (2 (f2 + 1))
/// ```
///
/// It is a lower bound, near the truth when orders that were never seen are about as likely as those that were
/// seen once. It takes for granted that runs do not depend on each other. `counts` says in how many
/// runs each order was seen; without any run there is nothing to say.
///
/// The interval is the standard one: log-normal around the unseen part, with the estimate's own variance;
/// without orders that were seen once, that of a complete sample.
///
/// Sources: A. Chao, “Nonparametric estimation of the number of classes in a population”, Scandinavian
/// Journal of Statistics 11 (1984), 265–270; the interval: A. Chao, Biometrics 43 (1987), 783–791; both as in
/// A. Chao and C.-H. Chiu, “Species richness: estimation and comparison”, Wiley StatsRef (2016), and in R. K.
/// Colwell's EstimateS, whose user's guide numbers the variances (6), (7) and (14).
pub fn chao1(counts: &[usize]) -> Option<Estimate> {
    let runs = counts.iter().sum::<usize>() as f64;
    with_share(counts, (runs - 1.0) / runs)
}

/// The estimate with another factor in the place of `(n − 1)/n`, as some programs leave it out.
fn with_share(counts: &[usize], share: f64) -> Option<Estimate> {
    let observed = counts.iter().filter(|count| **count > 0).count();
    if observed == 0 {
        return None;
    }
    let runs = counts.iter().sum::<usize>() as f64;
    let of = |wanted: usize| counts.iter().filter(|count| **count == wanted).count();
    let (singletons, doubletons) = (of(1), of(2));
    let (seen, f1, f2) = (observed as f64, singletons as f64, doubletons as f64);
    let unseen = share * f1 * (f1 - 1.0) / (2.0 * (f2 + 1.0));
    let total = seen + unseen;
    let (lower, upper) = if unseen > 0.0 {
        let spread = (1.96 * (1.0 + variance(f1, f2, share, total) / (unseen * unseen)).ln().sqrt()).exp();
        (seen + unseen / spread, seen + unseen * spread)
    } else {
        complete(seen, runs)
    };
    Some(Estimate { observed, total, lower, upper, singletons, doubletons })
}

/// The estimate's variance: (6) where orders were seen twice, (7) where none was.
fn variance(f1: f64, f2: f64, share: f64, total: f64) -> f64 {
    let first = share * f1 * (f1 - 1.0) / (2.0 * (f2 + 1.0));
    let second = share.powi(2) * f1 * (2.0 * f1 - 1.0).powi(2) / (4.0 * (f2 + 1.0).powi(2));
    let third = if f2 > 0.0 {
        share.powi(2) * f1.powi(2) * f2 * (f1 - 1.0).powi(2) / (4.0 * (f2 + 1.0).powi(4))
    } else {
        -share.powi(2) * f1.powi(4) / (4.0 * total)
    };
    (first + second + third).max(0.0)
}

/// (14): the interval where the sample seems to have everything. `missed` is the probability that one kind of
/// average frequency is not in it.
fn complete(seen: f64, runs: f64) -> (f64, f64) {
    let missed = (-runs / seen).exp();
    let middle = seen / (1.0 - missed);
    let spread = 1.96 * (seen * missed * (1.0 - missed)).sqrt() / (1.0 - missed);
    ((middle - spread).max(seen), middle + spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, expected: f64, within: f64) {
        assert!((value - expected).abs() <= within, "{value} is not {expected}");
    }

    /// What EstimateS says of three small samples, to its two decimals, as scikit-bio's tests have it, too. Both
    /// leave the factor `(n − 1)/n` out, which in samples as small as these is seen.
    #[test]
    fn estimates_agree_with_estimate_s() {
        for (counts, total, lower, upper, within) in [
            (&[0, 1, 1, 4, 2, 5, 2, 4, 1, 2][..], 9.75, 9.07, 17.45, 0.01),
            (&[0, 2, 2, 4, 5][..], 4.0, 4.0, 4.95, 0.01),
            (&[0, 1, 1, 4, 5][..], 5.0, 4.08, 17.27, 0.01),
        ] {
            let estimate = with_share(counts, 1.0).expect("there are runs");
            near(estimate.total, total, 1e-9);
            near(estimate.lower, lower, within);
            near(estimate.upper, upper, within);
        }
        let (f1, f2) = (3.0, 3.0);
        near(variance(f1, f2, 1.0, 9.75).sqrt(), 1.42, 0.005);
    }

    #[test]
    fn the_factor_makes_small_samples_say_less() {
        let estimate = chao1(&[1, 1, 4, 2, 5, 2, 4, 1, 2]).expect("there are runs");
        assert_eq!((estimate.observed, estimate.singletons, estimate.doubletons), (9, 3, 3));
        near(estimate.unseen(), 21.0 / 22.0 * 3.0 * 2.0 / (2.0 * 4.0), 1e-12);
    }

    #[test]
    fn one_run_and_none_are_no_samples_to_speak_of() {
        assert_eq!(chao1(&[]), None);
        assert_eq!(chao1(&[0, 0]), None);
        let one = chao1(&[1]).expect("there is a run");
        assert_eq!((one.observed, one.total, one.lower), (1, 1.0, 1.0));
        assert!(one.upper.is_finite());
        // Each order once: as many unseen as there are pairs.
        near(chao1(&[1; 10]).expect("there are runs").unseen(), 0.9 * 45.0, 1e-9);
    }
}
