//! One order: from the account to the certificate (RFC 8555 section 7.1).

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder,
    OrderStatus, RetryPolicy,
};

use super::AcmeConfig;
use super::client::Client;
use super::folder::Folder;
use super::proofs::Proofs;
use crate::tls::keys::KeyPair;

/// An authority, and our account with it.
pub(super) struct Authority {
    directory: String,
    contact: Option<String>,
    client: Client,
    account: Option<Account>,
}

impl Authority {
    pub(super) fn new(config: &AcmeConfig, client: Client) -> Self {
        let contact = (!config.email.is_empty()).then(|| format!("mailto:{}", config.email));
        Self { directory: config.directory.clone(), contact, client, account: None }
    }

    /// Has a certificate for `host` issued. The error is for the operator.
    pub(super) async fn order(
        &mut self,
        host: &str,
        folder: &Folder,
        proofs: &Proofs,
    ) -> Result<KeyPair, String> {
        let ordered = async {
            let account = self.account(folder).await?;
            conclude(&account, host, proofs).await
        };
        let ordered = ordered.await;
        if let Err(Error::Api(problem)) = &ordered
            && problem.r#type.as_deref() == Some(NO_ACCOUNT)
        {
            self.account = None;
            folder.drop_account();
        }
        ordered.map_err(|error| in_words(&error))
    }

    async fn account(&mut self, folder: &Folder) -> Result<Account, Error> {
        if let Some(account) = &self.account {
            return Ok(account.clone());
        }
        let builder = || Account::builder_with_http(Box::new(self.client.clone()));
        let account = match folder.account(&self.directory) {
            Some(credentials) => builder().from_credentials(credentials).await?,
            None => {
                let contact: Vec<_> = self.contact.iter().map(String::as_str).collect();
                let new = NewAccount {
                    contact: &contact,
                    terms_of_service_agreed: true,
                    only_return_existing: false,
                };
                let (account, credentials) =
                    builder().create(&new, self.directory.clone(), None).await?;
                if let Err(error) = folder.keep_account(&self.directory, &credentials) {
                    tracing::error!(%error, "the authority's account ends with this process");
                }
                account
            }
        };
        Ok(self.account.insert(account).clone())
    }
}

async fn conclude(account: &Account, host: &str, proofs: &Proofs) -> Result<KeyPair, Error> {
    let names = [Identifier::Dns(host.to_owned())];
    let mut order = account.new_order(&NewOrder::new(&names)).await?;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            _ => return Err(Error::Str("the authority does not let us prove the host")),
        }
        let (kind, other) = match proofs.by_http() {
            true => (ChallengeType::Http01, "http-01"),
            false => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
        };
        let Some(mut challenge) = authorization.challenge(kind) else {
            return Err(Error::Other(format!("the authority does not offer {other}").into()));
        };
        proofs.prepare(host, &challenge).map_err(|what| Error::Other(what.into()))?;
        challenge.set_ready().await?;
    }
    if order.poll_ready(&PATIENCE).await? != OrderStatus::Ready {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            let state = authorization.refresh().await?;
            if let Some(problem) = state.challenges.iter().find_map(|it| it.error.clone()) {
                return Err(Error::Api(problem));
            }
        }
        return Err(Error::Str("the authority does not believe that the host is ours"));
    }
    let key_pem = order.finalize().await?;
    let cert_pem = order.poll_certificate(&PATIENCE).await?;
    Ok(KeyPair { cert_pem, key_pem })
}

/// With its causes: "error sending request" alone helps nobody.
fn in_words(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        let more = deeper.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = deeper.source();
    }
    text
}

/// RFC 8555 section 6.7.
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// How long an authority may think, and how often it is asked meanwhile.
const PATIENCE: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));
