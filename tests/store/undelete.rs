//! Undelete of a tree: descendants that were removed together with a workspace are restored together with it.

use ostler::{
    domain::{ids::WorkspaceId, spec::SpecPatch, status::Status},
    store::{RemoveResult, UndeleteResult, UndeleteSkip, UndeletedAlong, UndeletedUnder, WorkspacePatch},
};

use super::{Fixture, minute, name, trash::REMOVED};

struct Tree {
    fixture: Fixture,
    root: WorkspaceId,
    left: WorkspaceId,
    leaf: WorkspaceId,
}

impl Tree {
    async fn new() -> Self {
        let fixture = Fixture::new().await;
        let root = fixture.container("root").await;
        let left = fixture.child("left", root).await;
        let leaf = fixture.child("leaf", left).await;
        Self { fixture, root, left, leaf }
    }

    async fn remove(&self, id: WorkspaceId, at: i64) {
        let removed = self.fixture.store.remove_workspace(id, true, false, minute(at)).await.unwrap();
        assert!(matches!(removed, RemoveResult::Removed { .. }), "{removed:?}");
    }

    async fn undelete(&self, id: WorkspaceId, only: bool, at: i64) -> Vec<UndeletedAlong> {
        let result = self.fixture.store.undelete_workspace(id, None, only, minute(at)).await.unwrap();
        let UndeleteResult::Back { along, .. } = result else { panic!("{result:?}") };
        along
    }

    async fn statuses(&self) -> [&'static str; 3] {
        let mut statuses = [""; 3];
        for (status, id) in statuses.iter_mut().zip([self.root, self.left, self.leaf]) {
            *status = self.fixture.row(id).await.status.as_str();
        }
        statuses
    }
}

fn back(id: WorkspaceId, of: &str) -> UndeletedAlong {
    UndeletedAlong { id, name: name(of), left: None }
}

#[tokio::test]
async fn undelete_restores_the_descendants_removed_with_it() {
    let tree = Tree::new().await;
    tree.remove(tree.root, 1).await;
    let along = tree.undelete(tree.root, false, 2).await;
    assert_eq!(along, [back(tree.left, "left"), back(tree.leaf, "leaf")], "parents come first");
    assert_eq!(tree.statuses().await, ["paused"; 3]);
    let parents =
        [tree.fixture.row(tree.left).await.spec.parent, tree.fixture.row(tree.leaf).await.spec.parent];
    assert_eq!(parents, [Some(tree.root), Some(tree.left)], "the parents are not restored");
    let started: Vec<_> = tree.fixture.store.paused_along_with(tree.root).await.unwrap();
    assert_eq!(started.len(), 2, "a start of the root also starts what was undeleted with it");
}

#[tokio::test]
async fn undelete_respects_children_removed_or_stopped_separately() {
    let tree = Tree::new().await;
    let stopped = tree.fixture.child("stopped", tree.root).await;
    tree.remove(tree.leaf, 1).await;
    tree.fixture.store.pause_workspace(stopped, minute(1)).await.unwrap();
    tree.remove(tree.root, 2).await;
    let along = tree.undelete(tree.root, false, 3).await;
    assert_eq!(along, [back(tree.left, "left"), back(stopped, "stopped")]);
    assert_eq!(tree.statuses().await, ["paused", "paused", "removed"]);
    let started = tree.fixture.store.paused_along_with(tree.root).await.unwrap();
    let started: Vec<_> = started.iter().map(|row| row.id).collect();
    assert_eq!(started, [tree.left], "a workspace that was stopped separately does not start with the root");
}

#[tokio::test]
async fn descendants_stay_removed_when_only_one_workspace_is_undeleted() {
    let tree = Tree::new().await;
    tree.remove(tree.root, 1).await;
    assert_eq!(tree.undelete(tree.root, true, 2).await, []);
    assert_eq!(tree.statuses().await, ["paused", "removed", "removed"]);
    // The second removal concerns only the root. Its undelete does not restore descendants that the first removal had
    // removed.
    tree.remove(tree.root, 3).await;
    assert_eq!(tree.undelete(tree.root, false, 4).await, []);
    assert_eq!(tree.undelete(tree.left, false, 5).await, [back(tree.leaf, "leaf")]);
    assert_eq!(tree.statuses().await, ["paused"; 3]);
    assert_eq!(tree.fixture.row(tree.left).await.spec.parent, Some(tree.root));
}

#[tokio::test]
async fn undelete_below_a_removed_parent_restores_its_own_subtree() {
    let tree = Tree::new().await;
    let right = tree.fixture.child("right", tree.root).await;
    tree.remove(tree.root, 1).await;
    assert_eq!(tree.undelete(tree.left, false, 2).await, [back(tree.leaf, "leaf")]);
    assert_eq!(tree.statuses().await, ["removed", "paused", "paused"]);
    assert_eq!(tree.undelete(tree.root, false, 3).await, [back(right, "right")]);
    assert_eq!(tree.fixture.row(right).await.status, Status::Paused);
}

#[tokio::test]
async fn undelete_reports_descendants_that_cannot_be_restored() {
    let tree = Tree::new().await;
    tree.remove(tree.root, 1).await;
    tree.fixture.container("left").await;
    let along = tree.undelete(tree.root, false, 2).await;
    let left = [
        UndeletedAlong { left: Some(UndeleteSkip::NameTaken), ..back(tree.left, "left") },
        UndeletedAlong { left: Some(UndeleteSkip::Below(name("left"))), ..back(tree.leaf, "leaf") },
    ];
    assert_eq!(along, left);
    assert_eq!(tree.statuses().await, ["paused", "removed", "removed"]);
    let other = tree.fixture.store.undelete_workspace(tree.left, Some(name("other")), false, minute(3)).await;
    let along = vec![back(tree.leaf, "leaf")];
    assert_eq!(other, Ok(UndeleteResult::Back { restoring: false, along, under: UndeletedUnder::default() }));
    assert_eq!(tree.statuses().await, ["paused"; 3]);
}

#[tokio::test]
async fn undelete_skips_descendants_that_are_being_deleted() {
    let tree = Tree::new().await;
    tree.remove(tree.root, 1).await;
    let entry = tree.fixture.kept(tree.left, REMOVED).await;
    assert!(tree.fixture.begin_delete(entry).await);
    let along = tree.undelete(tree.root, false, 2).await;
    let left = UndeletedAlong { left: Some(UndeleteSkip::Deleted), ..back(tree.left, "left") };
    assert_eq!(along, [left, back(tree.leaf, "leaf")]);
    assert_eq!(
        tree.fixture.row(tree.leaf).await.spec.parent,
        None,
        "a workspace whose parent stays removed is a root"
    );
}

/// Undeletes `leaf` while `left`, which was removed after it, is still removed.
async fn leaf_without_its_parent() -> Tree {
    let tree = Tree::new().await;
    tree.remove(tree.leaf, 1).await;
    tree.remove(tree.left, 2).await;
    tree.undelete(tree.leaf, false, 3).await;
    assert_eq!(tree.fixture.row(tree.leaf).await.spec.parent, None);
    tree
}

async fn parent_after_undelete(tree: &Tree, id: WorkspaceId) -> UndeletedUnder {
    let result = tree.fixture.store.undelete_workspace(id, None, false, minute(9)).await.unwrap();
    let UndeleteResult::Back { under, .. } = result else { panic!("{result:?}") };
    under
}

#[tokio::test]
async fn undelete_of_a_parent_reattaches_a_child_undeleted_earlier() {
    let tree = leaf_without_its_parent().await;
    let under = parent_after_undelete(&tree, tree.left).await;
    assert_eq!(under.returned, [name("leaf")]);
    assert_eq!(tree.fixture.row(tree.leaf).await.spec.parent, Some(tree.left));
    let started = tree.fixture.store.paused_along_with(tree.left).await.unwrap();
    assert_eq!(started, [], "a workspace that was undeleted separately starts separately");
    // After another removal and undelete, the leaf is below its parent at once.
    tree.remove(tree.leaf, 10).await;
    tree.undelete(tree.leaf, false, 11).await;
    assert_eq!(tree.fixture.row(tree.leaf).await.spec.parent, Some(tree.left));
}

#[tokio::test]
async fn undelete_of_a_child_reattaches_it_to_its_restored_parent() {
    let tree = leaf_without_its_parent().await;
    tree.remove(tree.leaf, 4).await;
    tree.undelete(tree.left, false, 5).await;
    assert_eq!(tree.fixture.row(tree.leaf).await.status, Status::Removed);
    tree.undelete(tree.leaf, false, 6).await;
    assert_eq!(tree.fixture.row(tree.leaf).await.spec.parent, Some(tree.left));
}

#[tokio::test]
async fn undelete_of_a_parent_leaves_a_moved_or_running_child_in_place() {
    for parent in [None, Some("root")] {
        let tree = leaf_without_its_parent().await;
        let parent = parent.map(|_| tree.root);
        let patch = WorkspacePatch {
            spec: SpecPatch { parent: Some(parent), ..SpecPatch::default() },
            ..WorkspacePatch::default()
        };
        tree.fixture.store.patch_workspace(tree.leaf, patch, minute(4)).await.unwrap();
        assert_eq!(parent_after_undelete(&tree, tree.left).await, UndeletedUnder::default());
        assert_eq!(
            tree.fixture.row(tree.leaf).await.spec.parent,
            parent,
            "a parent set by the operator is kept"
        );
    }
    let tree = leaf_without_its_parent().await;
    tree.fixture.force(tree.leaf, Status::Online);
    let under = parent_after_undelete(&tree, tree.left).await;
    assert_eq!(under.skipped_roots, [name("leaf")]);
    assert_eq!(
        tree.fixture.row(tree.leaf).await.spec.parent,
        None,
        "a running workspace is not attached below a paused one"
    );
}

#[tokio::test]
async fn undelete_creates_no_cycle_in_the_tree() {
    let tree = leaf_without_its_parent().await;
    // `leaf` runs, so it stays a root when its former parent `left` is undeleted. Then `left` is moved below `leaf`,
    // and both are removed.
    tree.fixture.force(tree.leaf, Status::Online);
    tree.undelete(tree.left, false, 4).await;
    let patch = WorkspacePatch {
        spec: SpecPatch { parent: Some(Some(tree.leaf)), ..SpecPatch::default() },
        ..WorkspacePatch::default()
    };
    tree.fixture.store.patch_workspace(tree.left, patch, minute(5)).await.unwrap();
    tree.remove(tree.leaf, 6).await;
    tree.undelete(tree.leaf, false, 7).await;
    assert_eq!(tree.fixture.row(tree.leaf).await.spec.parent, None);
    assert_eq!(tree.fixture.row(tree.left).await.spec.parent, Some(tree.leaf));
}
