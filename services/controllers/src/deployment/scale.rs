//! Scaling in the middle of a rollout, and while paused: all sets keep their share.
//!
//! Pure; a port of Kubernetes' proportional scaling, so that the risk is spread as users expect.

use super::plan::{Action, scale_to};
use super::view::{Set, View};

/// The writes that bring the sets to the Deployment's size.
pub(super) fn proportionally(view: &View<'_>) -> Vec<Action> {
    let active: Vec<&Set> = view.all().filter(|s| s.replicas > 0).collect();
    let only = match active.as_slice() {
        [] => view.new.as_ref().or_else(|| view.old.last()),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(set) = only {
        return scale_to(view, set, view.replicas).into_iter().collect();
    }
    if active.is_empty() {
        return Vec::new();
    }
    if let Some(new) = &view.new
        && is_saturated(view, new)
    {
        return view.old.iter().filter(|s| s.replicas > 0).filter_map(|s| scale_to(view, s, 0)).collect();
    }
    if !view.rolling {
        return Vec::new();
    }
    let allowed = if view.replicas > 0 { view.replicas.saturating_add(view.max_surge) } else { 0 };
    let to_add = allowed - view.total();
    let mut sets = active;
    if to_add > 0 {
        sets.sort_by(|a, b| (b.replicas, b.created, b.name()).cmp(&(a.replicas, a.created, a.name())));
    } else {
        sets.sort_by(|a, b| {
            b.replicas.cmp(&a.replicas).then_with(|| (a.created, a.name()).cmp(&(b.created, b.name())))
        });
    }
    let mut added = 0;
    let mut sizes = Vec::new();
    for set in &sets {
        let share = if to_add == 0 { 0 } else { proportion(view, set, to_add, added) };
        sizes.push(set.replicas + share);
        added += share;
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    sets.iter().zip(sizes).filter_map(|(set, size)| scale_to(view, set, size)).collect()
}

fn is_saturated(view: &View<'_>, set: &Set) -> bool {
    set.replicas == view.replicas && set.desired == Some(view.replicas) && set.available == view.replicas
}

fn proportion(view: &View<'_>, set: &Set, to_add: i32, added: i32) -> i32 {
    if set.replicas == 0 || to_add == added {
        return 0;
    }
    let left = to_add - added;
    let share = share(view, set);
    if to_add > 0 { share.min(left) } else { share.max(left) }
}

/// How much the set has to grow (or shrink, negative) to keep its share.
fn share(view: &View<'_>, set: &Set) -> i32 {
    if view.replicas == 0 {
        return -set.replicas;
    }
    let now = f64::from(view.replicas.saturating_add(view.max_surge));
    let before = set
        .max
        .filter(|n| *n > 0)
        .or_else(|| view.deployment.status.as_ref().and_then(|s| s.replicas).filter(|n| *n > 0));
    let before = f64::from(before.unwrap_or_else(|| view.total().max(1)));
    // Sizes are far below 2^53, so this is exact enough, and it is what Kubernetes computes.
    let size = (f64::from(set.replicas) * now / before).round();
    size as i32 - set.replicas
}
