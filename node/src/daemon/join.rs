//! How a fabric begins (`atoll init`) and grows (`atoll join`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use bincode::{Decode, Encode};
use model::ids::{NodeId, SiteId};
use model::placement::{Presence, Site};
use model::wire;
use raft_meta::node::{AdminCommand, AdminReply};
use transport::name::FabricId;
use transport::net::ca::{Authority, NodeKey};
use transport::net::join::{
    self, JoinFuture, JoinHandler, JoinRefusal, JoinRequest, JoinToken, TokenHash,
};
use transport::net::tls::Fingerprint;

use super::config::NodeConfig;
use super::disks::random;
use super::identity::NodeIdentity;
use super::making::Making;
use super::meta::{MetaHandle, SharedView};
use super::nbd_tls::{self, NbdAuthority, NbdKey, Subject};

/// What a joiner asks for.
#[derive(Clone, Debug, Encode, Decode)]
struct Application {
    name: String,
    site: String,
    quic: SocketAddr,
    nbd: SocketAddr,
    /// A certificate signing request (DER).
    request: Vec<u8>,
    /// By what NBD clients reach it, and a signing request (PEM) for that.
    nbd_names: Vec<String>,
    nbd_request: String,
}

/// What an admitted joiner gets.
#[derive(Clone, Debug, Encode, Decode)]
struct Admission {
    fabric: u64,
    node: u16,
    site: u8,
    /// Its certificate, then the authority's (DER).
    certificate: Vec<u8>,
    authority: Vec<u8>,
    /// Its NBD server's certificate (PEM).
    nbd_certificate: String,
    /// The authority's key (PEM), for a node that is to admit others.
    authority_key: Option<String>,
    contacts: Vec<(u16, SocketAddr)>,
}

/// Makes a new fabric whose first node this is: its authority, its certificate, its identity.
///
/// # Errors
/// The directory is in use, or can't be written.
pub fn init(directory: &Path, config: &NodeConfig) -> Result<()> {
    let making = Making::begin(directory)?;
    let fabric = random()?;
    let name = FabricId::from_str(&format!("f{fabric:016x}")).context("the fabric's name")?;
    let authority = Authority::create(name)?;
    authority.save(directory)?;
    authority.issue(NodeId(1))?.save(directory)?;
    let for_nbd = NbdAuthority::load(directory)?.context("the authority was just made")?;
    nbd_tls::issue_own(directory, config, &for_nbd)?;
    let identity = NodeIdentity {
        fabric,
        node: 1,
        site: 1,
        founder: true,
        started: false,
        contacts: BTreeMap::new(),
    };
    Ok(making.finish(&identity, config)?)
}

/// Joins a fabric with a one-time token.
///
/// # Errors
/// The token is refused, the names are taken, or no contact answers.
pub async fn join(directory: &Path, config: &NodeConfig, token: &str) -> Result<()> {
    let making = Making::begin(directory)?;
    let token = JoinToken::from_str(token)?;
    let (key, nbd_key) = (NodeKey::generate()?, NbdKey::generate()?);
    let application = Application {
        name: config.name.clone(),
        site: config.site.clone(),
        quic: config.quic,
        nbd: config.nbd,
        request: key.request()?,
        nbd_names: nbd_tls::server_names(config),
        nbd_request: nbd_key.request()?,
    };
    let reply = join::join(&token, &wire::encode(&application)).await?;
    let admission: Admission = wire::decode(&reply).context("the contact's answer")?;
    let identity = key.into_identity(
        admission.certificate.clone().into(),
        admission.authority.clone().into(),
    )?;
    if let Some(key) = &admission.authority_key {
        let authority = Authority::from_key(admission.authority.clone().into(), key)?;
        authority.save(directory)?;
    }
    nbd_tls::save_server(directory, &admission.nbd_certificate, &nbd_key)?;
    identity.save(directory)?;
    let identity = NodeIdentity {
        fabric: admission.fabric,
        node: admission.node,
        site: admission.site,
        founder: false,
        started: false,
        contacts: admission.contacts.into_iter().collect(),
    };
    Ok(making.finish(&identity, config)?)
}

/// Makes a join token that leads to this node, for a node of that name and site.
///
/// # Errors
/// The fabric can't commit it now.
pub fn make_token(
    authority: &Authority,
    contact: SocketAddr,
    (node, site): (&str, &str),
    meta: &MetaHandle,
) -> Result<String> {
    let contacts = vec![contact.to_string()];
    let fingerprint = Fingerprint::of(authority.certificate());
    let token = JoinToken::create(authority.fabric().clone(), fingerprint, contacts)?;
    let command = AdminCommand::AddToken {
        hash: token.hash().bound_to(node, site).0,
    };
    match meta
        .admin(command)
        .blocking_recv()
        .context("the metadata thread ended")?
    {
        AdminReply::Done => Ok(token.to_string()),
        AdminReply::Unavailable => {
            bail!("no quorum of the global placement group answers: try again")
        }
        other => bail!("the fabric makes no token: {other:?}"),
    }
}

/// Replies by token and application.
pub type Admitted = BTreeMap<(TokenHash, Vec<u8>), Vec<u8>>;

/// Admits joiners, on the node that has the fabric's authority.
pub struct Admitter {
    /// The authority.
    pub authority: Authority,
    /// The same, for NBD's certificates.
    pub nbd: NbdAuthority,
    /// The fabric's number.
    pub fabric: u64,
    /// This node and its address.
    pub me: (NodeId, SocketAddr),
    /// The metadata.
    pub meta: MetaHandle,
    /// The placement.
    pub view: SharedView,
    /// Admissions by token and application: a joiner whose reply was lost asks again.
    pub admitted: Mutex<Admitted>,
}

/// The handler of the transport.
pub struct AdmitJoiners(pub Arc<Admitter>);

impl JoinHandler for AdmitJoiners {
    fn join(&self, request: JoinRequest) -> JoinFuture {
        let admitter = Arc::clone(&self.0);
        Box::pin(async move { admitter.admit(request).await })
    }
}

impl Admitter {
    async fn command(&self, command: AdminCommand) -> Result<AdminReply, JoinRefusal> {
        match self.meta.admin(command).await {
            Ok(AdminReply::Unavailable) | Err(_) => Err(JoinRefusal::Unavailable),
            Ok(AdminReply::Refused(refusal)) => {
                tracing::warn!(%refusal, "a joiner is refused");
                Err(JoinRefusal::Conflict)
            }
            Ok(reply) => Ok(reply),
        }
    }

    async fn admit(&self, request: JoinRequest) -> Result<Vec<u8>, JoinRefusal> {
        let application: Application =
            wire::decode(&request.body).map_err(|_| JoinRefusal::BadRequest)?;
        let key = (request.token, request.body.to_vec());
        if let Some(reply) = self.remembered().get(&key) {
            return Ok(reply.clone());
        }
        // Bad names are refused while the token is still good.
        let subject = Subject::Server(application.nbd_names.clone());
        let for_nbd = self.nbd.sign(&subject, &application.nbd_request);
        let for_nbd = for_nbd.map_err(|error| {
            tracing::warn!(%error, "a joiner is refused");
            JoinRefusal::BadRequest
        })?;
        // The token is used up by a committed entry before anything is made.
        let bound = request.token.bound_to(&application.name, &application.site);
        let command = AdminCommand::UseToken { hash: bound.0 };
        match self.meta.admin(command).await {
            Ok(AdminReply::Done) => {}
            Ok(AdminReply::Refused(_)) => return Err(JoinRefusal::UsedToken),
            _ => return Err(JoinRefusal::Unavailable),
        }
        let reply = self.make_node(&application, for_nbd).await?;
        self.remembered().insert(key, reply.clone());
        Ok(reply)
    }

    async fn make_node(
        &self,
        application: &Application,
        nbd_certificate: String,
    ) -> Result<Vec<u8>, JoinRefusal> {
        let known = self.site_named(&application.site);
        // One node a site can admit others, so that the loss of a site, or of the fabric's
        // first node, ends no fabric's growth; a lost one's successor takes its place.
        let admits = known.is_none() || self.is_successor(&application.name);
        let site = match known {
            Some(site) => site,
            None => match self
                .command(AdminCommand::AddSite {
                    name: application.site.clone(),
                })
                .await?
            {
                AdminReply::Site(site) => site,
                _ => return Err(JoinRefusal::Conflict),
            },
        };
        let command = AdminCommand::AddNode {
            site,
            name: application.name.clone(),
            address: application.quic,
            nbd: application.nbd,
        };
        let AdminReply::Node(node) = self.command(command).await? else {
            return Err(JoinRefusal::Conflict);
        };
        let certificate = self
            .authority
            .sign(node, &application.request)
            .map_err(|_| JoinRefusal::BadRequest)?;
        let mut contacts: Vec<(u16, SocketAddr)> = {
            let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
            view.nodes.iter().map(|(id, n)| (id.0, n.address)).collect()
        };
        if !contacts.iter().any(|(id, _)| *id == self.me.0.0) {
            contacts.push((self.me.0.0, self.me.1));
        }
        Ok(wire::encode(&Admission {
            fabric: self.fabric,
            node: node.0,
            site: site.0,
            certificate: certificate.to_vec(),
            authority: self.authority.certificate().to_vec(),
            nbd_certificate,
            authority_key: admits.then(|| self.authority.key()),
            contacts,
        }))
    }

    fn site_named(&self, name: &str) -> Option<SiteId> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let takes_part = |s: &Site| s.name == name && s.presence != Presence::Gone;
        let found = view.sites.iter().find(|(_, s)| takes_part(s));
        found.map(|(id, _)| *id)
    }

    /// Whether a node of that name was removed.
    fn is_successor(&self, name: &str) -> bool {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let mut nodes = view.nodes.values();
        nodes.any(|n| n.name == name && n.presence == Presence::Gone)
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, Admitted> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
