//! `atoll nbd`: certificates for NBD under TLS. The key is made here, and only a request for
//! its certificate travels.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::json;

use super::args::NbdCommand;
use super::print;
use crate::admin::client;
use crate::admin::protocol::{NbdCertificate, NbdSubject, Reply, Request};
use crate::daemon::nbd_tls::{self, ClientFiles, NbdKey};

pub(super) fn run(directory: &Path, command: &NbdCommand, as_json: bool) -> anyhow::Result<()> {
    match command {
        NbdCommand::ClientCert { out, name } => client(directory, out, name, as_json),
        NbdCommand::ServerCert { out, names } => server(directory, out, names, as_json),
    }
}

fn make_directory(out: &Path, files: &[&Path]) -> anyhow::Result<()> {
    fs::create_dir_all(out).with_context(|| format!("can't make {}", out.display()))?;
    // A key that somebody uses can't be had again.
    if let Some(file) = files.iter().find(|file| file.exists()) {
        bail!(
            "{} is there already: give another --out, or remove it first",
            file.display()
        );
    }
    Ok(())
}

fn sign(directory: &Path, subject: NbdSubject, key: &NbdKey) -> anyhow::Result<NbdCertificate> {
    let request = Request::NbdCertificate {
        subject,
        signing_request: key.request()?,
    };
    match client::ask(directory, &request)?.reply {
        Reply::NbdCertificate(signed) => Ok(signed),
        _ => bail!("a node answered another question: does it run another version of atoll?"),
    }
}

fn client(directory: &Path, out: &Path, name: &str, as_json: bool) -> anyhow::Result<()> {
    let out = std::path::absolute(out).context("--out")?;
    let files = ClientFiles::of(&out);
    make_directory(&out, &[&files.certificate, &files.key])?;
    let key = NbdKey::generate()?;
    let signed = sign(directory, NbdSubject::Client(name.to_owned()), &key)?;
    files.save(&signed.authority, &signed.certificate, &key)?;
    if as_json {
        let made = json!({
            "name": name,
            "dir": out,
            "ca_cert": files.authority,
            "client_cert": files.certificate,
            "client_key": files.key,
        });
        return print(&made.to_string());
    }
    let out = out.display();
    print(&format!(
        "client '{name}': ca-cert.pem, client-cert.pem and client-key.pem are in {out}\n\n\
         libnbd  nbdinfo 'nbds://HOST:PORT/VOLUME?tls-certificates={out}'\n\
         qemu    --object tls-creds-x509,id=t,endpoint=client,dir={out}\n        \
         --image-opts driver=nbd,host=HOST,port=PORT,export=VOLUME,tls-creds=t\n\
         Linux   nbd-client -N VOLUME -cacertfile {out}/ca-cert.pem -certfile {out}/client-cert.pem \
         -keyfile {out}/client-key.pem HOST PORT /dev/nbd0"
    ))
}

fn server(directory: &Path, out: &Path, names: &[String], as_json: bool) -> anyhow::Result<()> {
    let out = std::path::absolute(out).context("--out")?;
    let (certificate, key_file) = (out.join(nbd_tls::CERTIFICATE), out.join(nbd_tls::KEY));
    make_directory(&out, &[&certificate, &key_file])?;
    let key = NbdKey::generate()?;
    let signed = sign(directory, NbdSubject::Server(names.to_vec()), &key)?;
    nbd_tls::save_server(&out, &signed.certificate, &key)?;
    if as_json {
        let made =
            json!({ "names": names, "dir": out, "certificate": certificate, "key": key_file });
        return print(&made.to_string());
    }
    print(&format!(
        "{} and {} are in {}: copy them into the node's directory, and start the node again",
        nbd_tls::CERTIFICATE,
        nbd_tls::KEY,
        out.display()
    ))
}
