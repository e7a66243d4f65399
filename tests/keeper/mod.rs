//! The main job on real input: the real binary, the real Podman, real containers.

mod removal;
