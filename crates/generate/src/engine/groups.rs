//! Models whose rows run as one batch.

use crate::capability::{Batch, Session, Step};

/// Lanes that run together.
pub(super) struct Group<'a> {
    pub(super) lanes: Vec<usize>,
    /// Set where there are several.
    pub(super) batch: Option<Box<dyn Batch + 'a>>,
}

/// The sessions of models, those whose rows can run as one batch in one group.
pub(super) fn grouped<'a>(models: &[&'a dyn Step]) -> (Vec<Box<dyn Session + 'a>>, Vec<Group<'a>>) {
    let mut sessions: Vec<Option<Box<dyn Session + 'a>>> = models.iter().map(|_| None).collect();
    let mut groups = Vec::new();
    for first in 0..models.len() {
        if sessions[first].is_some() {
            continue;
        }
        let joins = |other: &usize| sessions[*other].is_none() && models[first].joins(models[*other]);
        let others: Vec<usize> = (first + 1..models.len()).filter(joins).collect();
        let joined = models[first].join(&others.iter().map(|other| models[*other]).collect::<Vec<_>>());
        let (given, lanes, batch) = match joined.filter(|_| !others.is_empty()) {
            Some(joined) => (joined.sessions, [&[first][..], &others].concat(), Some(joined.batch)),
            None => (vec![models[first].session()], vec![first], None),
        };
        for (lane, session) in lanes.iter().zip(given) {
            sessions[*lane] = Some(session);
        }
        groups.push(Group { lanes, batch });
    }
    (sessions.into_iter().flatten().collect(), groups)
}
