//! Which workspaces may discover and message each other, derived from the tree (wire protocol, §4).

use super::ids::WorkspaceId;

/// Maximum number of ancestors that are checked. A more distant ancestor has no access. The limit also ends the search
/// if the tree contains a cycle.
pub const STEPS_MAX: usize = 32;

/// The tree of workspaces that are not removed.
pub trait Tree {
    /// The parent of a workspace. `None` if the workspace does not exist or is removed, `Some(None)` if it has no
    /// parent.
    fn parent(&self, of: WorkspaceId) -> Option<Option<WorkspaceId>>;
}

/// Whether two workspaces may communicate. They may not if one of them, or one between them in the tree, does not
/// exist.
#[must_use]
pub fn may_communicate(tree: &impl Tree, one: WorkspaceId, other: WorkspaceId, root_siblings: bool) -> bool {
    let (Some(above_one), Some(above_other)) = (tree.parent(one), tree.parent(other)) else { return false };
    if one == other {
        return true;
    }
    let siblings = match (above_one, above_other) {
        (None, None) => root_siblings,
        (Some(a), Some(b)) => a == b && tree.parent(a).is_some(),
        (None, Some(_)) | (Some(_), None) => false,
    };
    siblings || is_above(tree, one, other) || is_above(tree, other, one)
}

/// Whether `above` is an ancestor of `below`.
fn is_above(tree: &impl Tree, above: WorkspaceId, below: WorkspaceId) -> bool {
    let mut at = below;
    for _ in 0..STEPS_MAX {
        match tree.parent(at) {
            Some(Some(parent)) if parent == above => return true,
            Some(Some(parent)) => at = parent,
            Some(None) | None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::*;

    struct Rows(BTreeMap<WorkspaceId, Option<WorkspaceId>>);

    impl Tree for Rows {
        fn parent(&self, of: WorkspaceId) -> Option<Option<WorkspaceId>> {
            self.0.get(&of).copied()
        }
    }

    fn id(number: u128) -> WorkspaceId {
        WorkspaceId(Uuid::from_u128(number))
    }

    /// Pairs of child and parent; the parent 0 means that there is none.
    fn rows(of: &[(u128, u128)]) -> Rows {
        Rows(of.iter().map(|(child, parent)| (id(*child), (*parent > 0).then(|| id(*parent)))).collect())
    }

    fn allowed(tree: &Rows, one: u128, other: u128) -> bool {
        let answer = may_communicate(tree, id(one), id(other), true);
        assert_eq!(
            answer,
            may_communicate(tree, id(other), id(one), true),
            "{one} and {other}: the result depends on the direction"
        );
        answer
    }

    #[test]
    fn communication_rules_follow_the_protocol_table() {
        // Two trees, each arrow from parent to child: 1 -> 2 -> 4 and 1 -> 3 -> 5; 6 -> 7.
        let tree = rows(&[(1, 0), (2, 1), (3, 1), (4, 2), (5, 3), (6, 0), (7, 6)]);
        assert!(allowed(&tree, 1, 1), "itself");
        assert!(allowed(&tree, 2, 3), "siblings");
        assert!(allowed(&tree, 1, 6), "two roots");
        assert!(allowed(&tree, 1, 2) && allowed(&tree, 1, 4), "parent and ancestor");
        assert!(!allowed(&tree, 4, 5), "cousins");
        assert!(!allowed(&tree, 3, 4), "uncle");
        assert!(!allowed(&tree, 2, 7) && !allowed(&tree, 1, 7), "another tree");
        assert!(!allowed(&tree, 1, 9) && !allowed(&tree, 9, 9), "no such row");
        assert!(
            !may_communicate(&tree, id(1), id(6), false),
            "two roots, with messages between roots disabled"
        );
    }

    #[test]
    fn parent_cycle_or_too_long_parent_chain_gives_no_access() {
        let cycle = rows(&[(1, 3), (2, 1), (3, 2), (9, 0)]);
        assert!(!allowed(&cycle, 1, 9));
        let steps = STEPS_MAX as u128;
        let chain: Vec<_> = (1..=steps + 2).map(|n| (n, n - 1)).collect();
        let chain = rows(&chain);
        assert!(allowed(&chain, 1, steps + 1), "at the depth limit");
        assert!(!allowed(&chain, 1, steps + 2), "beyond the depth limit");
    }

    #[test]
    fn siblings_without_an_existing_parent_may_not_communicate() {
        assert!(!allowed(&rows(&[(2, 1), (3, 1)]), 2, 3));
    }
}
