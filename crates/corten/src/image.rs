//! `corten image …`

use anyhow::Result;
use corten_runtime::image::commands;

use crate::args::{ImageArgs, ImageCommand};
use crate::layout::Layout;

/// Imports, lists, pulls and removes images of a cluster on this machine.
pub async fn image(args: ImageArgs) -> Result<()> {
    let layout = Layout::new(&args.cluster.data_dir())?;
    let socket = layout.cri_socket();
    match args.command {
        ImageCommand::Import { files, reference } => {
            for file in files {
                let imported = commands::import(&layout.images(), &file, reference.as_deref())?;
                for image in imported {
                    println!("imported {}", image.references.join(" "));
                }
            }
        }
        ImageCommand::Ls => print!("{}", commands::table(&commands::list(&socket).await?)),
        ImageCommand::Pull { references, creds } => {
            let (user, password) = creds.as_deref().and_then(|c| c.split_once(':')).unwrap_or_default();
            for reference in references {
                println!(
                    "pulled {reference}: {}",
                    commands::pull(&socket, &reference, user, password).await?
                );
            }
        }
        ImageCommand::Rm { references } => {
            for reference in references {
                commands::remove(&socket, &reference).await?;
                println!("removed {reference}");
            }
        }
    }
    Ok(())
}
