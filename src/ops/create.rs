//! Create: first the row is stored durably, and the mirror file is updated. Then the container and volumes are created
//! in the engine.

use super::{Inner, OpError, OpResult, Ops, Ticket, pause::below_paused};
use crate::{
    domain::{
        ids::{TokenId, WorkspaceId},
        naming::WorkspaceName,
        operation::{OperationId, Requester},
        runtime::{PLAIN, Tier},
        spec::{Access, InvalidSpec, Unfit, WorkspaceSpec},
        status::{Failure, Status},
        token::Token,
        workspace::{Delivery, Kind},
    },
    store::{CreateResult, Found, NewWorkspace, Scope, TokenIssue},
};

/// A workspace to create, validated as far as possible without lookups.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    /// Name; unique among live workspaces.
    pub name: WorkspaceName,
    /// Whether its agent runs elsewhere.
    pub external: bool,
    /// Delivery of messages; only an external agent may poll.
    pub delivery: Delivery,
    /// Its spec. An empty runtime means `plain`, or `external` for an external workspace; an empty image or command is
    /// taken from the runtime.
    pub spec: WorkspaceSpec,
}

/// The result of a creation.
#[derive(Clone, Debug)]
pub struct Created {
    /// The workspace's id.
    pub id: WorkspaceId,
    /// The token of an external workspace. This is the only time its text is available.
    pub token: Option<Token>,
    /// The engine's error, if the start waits because the engine gives no answer.
    pub waits: Option<String>,
    /// The operation that starts it; `None` for an external workspace.
    pub operation: Option<OperationId>,
}

impl CreateRequest {
    /// The name of its runtime.
    #[must_use]
    pub fn runtime(&self) -> &str {
        match self.spec.runtime.as_str() {
            "" if self.external => "external",
            "" => PLAIN,
            named => named,
        }
    }
}

impl Ops {
    /// Creates a workspace. Its start is queued when this returns.
    ///
    /// # Errors
    /// If the request is impossible or the store fails. Nothing is created in these cases.
    pub async fn create(&self, request: CreateRequest) -> OpResult<Created> {
        let spec = self.0.complete(&request)?;
        let waits = if request.external { None } else { self.refuse_another_engine().await? };
        let id = WorkspaceId(self.0.entropy.uuid());
        let _reservation = self.0.actors.reserve(id);
        let token = request.external.then(|| self.0.entropy.token());
        let new = NewWorkspace {
            id,
            name: request.name.clone(),
            kind: if request.external { Kind::External } else { Kind::Container },
            delivery: request.delivery,
            spec,
            token: token.as_ref().map(|token| self.0.issue(token)),
        };
        let (store, now) = (self.0.store.clone(), self.0.clock.now());
        let transaction = async move { store.accept_creation(new, Some(Requester::Operator), now).await };
        let (result, ticket) = self.accepting(transaction).await?;
        match result {
            CreateResult::NameTaken => return Err(self.0.name_taken(request.name).await?),
            CreateResult::ParentMissing => {
                return Err(OpError::Invalid("the parent does not exist, or was removed".into()));
            }
            CreateResult::ParentPaused(parent) => return Err(below_paused(&parent)),
            CreateResult::Created(_) => {}
        }
        let operation = ticket.as_ref().and_then(Ticket::operation);
        Ok(Created { id, token, waits: waits.map(|error| error.to_string()), operation })
    }
}

impl From<InvalidSpec> for OpError {
    fn from(error: InvalidSpec) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl Inner {
    /// The spec, with its runtime, and with the runtime's image and command where it has none.
    fn complete(&self, request: &CreateRequest) -> OpResult<WorkspaceSpec> {
        let mut spec = WorkspaceSpec { runtime: request.runtime().to_owned(), ..request.spec.clone() };
        if request.external {
            return Ok(spec);
        }
        let runtime = self.runtime(&spec.runtime)?;
        if spec.image.is_empty() {
            spec.image = runtime.image.clone().ok_or_else(|| {
                OpError::Invalid(
                    "no image was given, and the runtime has no default image: add --image".into(),
                )
            })?;
        }
        if spec.command.is_empty() {
            spec.command.clone_from(&runtime.command);
        }
        spec.check()?;
        if spec.tier == Tier::SANDBOX && spec.workspace_dir.is_some() {
            return Err(OpError::Invalid(Unfit::Sandbox.to_string()));
        }
        if spec.workspace_dir.is_none() {
            spec.workspace_access = Access::ReadWrite;
        }
        Ok(spec)
    }

    /// The error for a name that is taken. If that workspace's start failed, the error says how to repair it.
    async fn name_taken(&self, name: WorkspaceName) -> OpResult<OpError> {
        let found = self.store.find_workspace(name.to_string(), Scope::Live).await?;
        let failed = matches!(&found, Found::One(row) if row.name == name
            && matches!(row.status, Status::Failed(Failure::StartError)));
        Ok(if failed {
            OpError::Conflict(format!(
                "a workspace named `{name}` exists already, and its start failed (`ostler why {name}`). Set another \
                 image with `ostler set {name} --image IMAGE`, or try again with `ostler start {name}`. Otherwise \
                 choose another name, or remove it first with `ostler rm {name}`"
            ))
        } else {
            OpError::NameTaken(name)
        })
    }

    pub(super) fn issue(&self, token: &Token) -> TokenIssue {
        TokenIssue { id: TokenId(self.entropy.uuid()), digest: token.digest(), prefix: token.prefix() }
    }
}
