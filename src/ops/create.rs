//! Create: the row first, durably, with its mirror, then everything in the engine.

use super::{Inner, OpError, OpResult, Ops, Order, pause::below_paused, start::StartOrder};
use crate::{
    domain::{
        ids::{TokenId, WorkspaceId},
        naming::WorkspaceName,
        runtime::{PLAIN, Tier},
        spec::{Access, InvalidSpec, Spec, Unfit},
        status::{Failure, Status},
        token::Token,
        workspace::{Habits, Kind},
    },
    store::{CreateResult, Found, NewWorkspace, Scope, TokenIssue},
};

/// A workspace to make, validated as far as can be without looking anything up.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    /// Its name.
    pub name: WorkspaceName,
    /// What it is for.
    pub role: Option<String>,
    /// The runtime's name; `plain` where none is given.
    pub runtime: Option<String>,
    /// Its tier.
    pub tier: Tier,
    /// Above it in the tree.
    pub parent: Option<WorkspaceId>,
    /// Whether its agent runs elsewhere.
    pub external: bool,
    /// Where an external agent is reached.
    pub url: Option<String>,
    /// How it sleeps, what it takes on, what may be done with it when it is stuck.
    pub habits: Habits,
    /// What its container is made from; an empty image or command is the runtime's.
    pub spec: Spec,
}

/// A made workspace.
#[derive(Clone, Debug)]
pub struct Created {
    /// Its identity.
    pub id: WorkspaceId,
    /// The token of an external one: the only time it is in the clear.
    pub token: Option<Token>,
    /// Why its start has to wait: the engine gives no answer.
    pub waits: Option<String>,
}

impl Ops {
    /// Makes a workspace. It is being started when this answers.
    ///
    /// # Errors
    /// When the request is impossible or the store cannot take it: nothing was made then.
    pub async fn create(&self, request: CreateRequest) -> OpResult<Created> {
        let spec = self.0.complete(&request)?;
        let waits = if request.external { None } else { self.refuse_another_engine().await? };
        let id = WorkspaceId(self.0.entropy.uuid());
        let _reservation = self.0.actors.reserve(id);
        let token = request.external.then(|| self.0.entropy.token());
        let new = NewWorkspace {
            id,
            name: request.name.clone(),
            role: request.role,
            kind: if request.external { Kind::External } else { Kind::Container },
            runtime: request
                .runtime
                .unwrap_or_else(|| if request.external { "external" } else { PLAIN }.into()),
            tier: request.tier,
            parent: request.parent,
            spec,
            url: request.url,
            token: token.as_ref().map(|token| self.0.issue(token)),
            habits: request.habits,
        };
        match self.0.store.create_workspace(new, self.0.clock.now()).await? {
            CreateResult::NameTaken => return Err(self.0.name_taken(request.name).await?),
            CreateResult::ParentMissing => {
                return Err(OpError::Invalid("the parent is not there, or was removed".into()));
            }
            CreateResult::ParentPaused(parent) => return Err(below_paused(&parent)),
            CreateResult::Created(_) => {}
        }
        if !request.external {
            let _carried_out_anyway = self.submit(id, Order::Start(StartOrder::default()));
        }
        Ok(Created { id, token, waits: waits.map(|error| error.to_string()) })
    }
}

impl From<InvalidSpec> for OpError {
    fn from(error: InvalidSpec) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl Inner {
    /// The spec with the runtime's image and command where it names none.
    fn complete(&self, request: &CreateRequest) -> OpResult<Spec> {
        let mut spec = request.spec.clone();
        if request.external {
            return Ok(spec);
        }
        let runtime = self.runtime(request.runtime.as_deref().unwrap_or(PLAIN))?;
        if spec.image.is_empty() {
            spec.image = runtime.image.clone().ok_or_else(|| {
                OpError::Invalid("no image was given, and the runtime names none: add --image".into())
            })?;
        }
        if spec.command.is_empty() {
            spec.command.clone_from(&runtime.command);
        }
        spec.check()?;
        if request.tier == Tier::SANDBOX && spec.workspace_dir.is_some() {
            return Err(OpError::Invalid(Unfit::Sandbox.to_string()));
        }
        if spec.workspace_dir.is_none() {
            spec.workspace_access = Access::ReadWrite;
        }
        Ok(spec)
    }

    /// Why a name is taken. A workspace whose creation failed is mended, not made again.
    async fn name_taken(&self, name: WorkspaceName) -> OpResult<OpError> {
        let found = self.store.find_workspace(name.to_string(), Scope::Live).await?;
        let failed = matches!(&found, Found::One(row) if row.name == name
            && matches!(row.status, Status::Failed(Failure::StartError)));
        Ok(if failed {
            OpError::Conflict(format!(
                "a workspace named `{name}` exists already, and its start failed (`ostler why {name}`). Mend it: `ostler \
                 set {name} --image IMAGE` names another image, `ostler start {name}` tries again. Or choose another \
                 name, or `ostler rm {name}` first"
            ))
        } else {
            OpError::NameTaken(name)
        })
    }

    pub(super) fn issue(&self, token: &Token) -> TokenIssue {
        TokenIssue { id: TokenId(self.entropy.uuid()), digest: token.digest(), prefix: token.prefix() }
    }
}
