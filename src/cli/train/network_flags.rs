//! The flags of a network: its word, and the numbers that go with it.

use anyhow::{bail, ensure};
use clap::ValueEnum;

use super::flags::word;
use crate::lab::network::{Activation, Architecture, Norm};

/// Which network, and its numbers.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct NetworkFlags {
    /// The network.
    #[arg(long, value_enum)]
    network: Option<NetworkKind>,
    /// Channels: of the two convolutions of a cnn [default: 32,64], of each block of a convnet [default: 32,64,128], of
    /// the first stage of a resnet18 [default: 64].
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    channels: Vec<usize>,
    /// Units of the hidden linear layers: one for a cnn [default: 128], any number for an mlp [default: 256,128] and a
    /// convnet [default: 128]; 0 for none.
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    hidden: Vec<usize>,
    /// Side of the kernels of a convnet [default: 3].
    #[arg(long, value_name = "N")]
    side: Option<usize>,
    /// Normalisation in a convnet, densenet or resnet18 [default: batch].
    #[arg(long, value_parser = word::<Norm>)]
    norm: Option<Norm>,
    /// Between the layers of an mlp or a convnet: relu or tanh [default: relu].
    #[arg(long, value_parser = word::<Activation>)]
    activation: Option<Activation>,
    /// Layers of a densenet, 6 n + 4 [default: 100].
    #[arg(long, value_name = "N")]
    depth: Option<usize>,
    /// Channels that each layer of a densenet adds [default: 12].
    #[arg(long, value_name = "N")]
    growth: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NetworkKind {
    /// Two convolutions with pooling, two linear layers.
    Cnn,
    /// Linear layers with an activation between them.
    Mlp,
    /// The paper's network for Purchase-100: 1024, 512, 256, 128, tanh.
    Fcn,
    /// DenseNet-BC, the paper's network for CIFAR-10.
    Densenet,
    /// ResNet-18 for small images.
    Resnet18,
    /// A shallow ResNet that trains fast, as tools for shadow models use it.
    Resnet9,
    /// The network of ML-Leaks and of the CS2980 report.
    MlLeaks,
    /// Blocks of convolution, norm, activation and pooling, then linear layers.
    Convnet,
}

impl NetworkKind {
    fn plain(self) -> Architecture {
        match self {
            Self::Cnn => Architecture::Cnn { channels: [32, 64], hidden: 128 },
            Self::Mlp => Architecture::Mlp { hidden: vec![256, 128], activation: Activation::Relu },
            Self::Fcn => Architecture::fcn(),
            Self::Densenet => Architecture::densenet(),
            Self::Resnet18 => Architecture::resnet18(),
            Self::Resnet9 => Architecture::resnet9(),
            Self::MlLeaks => Architecture::MlLeaks,
            Self::Convnet => Architecture::Convnet {
                channels: vec![32, 64, 128],
                side: 3,
                norm: Norm::Batch,
                hidden: vec![128],
                activation: Activation::Relu,
            },
        }
    }

    /// The kind by which a recipe's network goes, so that naming it again changes nothing.
    fn of(network: &Architecture) -> Self {
        match network {
            Architecture::Cnn { .. } => Self::Cnn,
            fcn if *fcn == Architecture::fcn() => Self::Fcn,
            Architecture::Mlp { .. } => Self::Mlp,
            Architecture::Convnet { .. } => Self::Convnet,
            Architecture::Densenet { .. } => Self::Densenet,
            Architecture::Resnet { .. } => Self::Resnet18,
            Architecture::Resnet9 { .. } => Self::Resnet9,
            Architecture::MlLeaks => Self::MlLeaks,
        }
    }
}

/// Takes a flag that refines something; what nothing took at the end belongs to nothing.
struct Given<'a> {
    left: Vec<&'static str>,
    what: &'a str,
}

impl Given<'_> {
    fn take(&mut self, flag: &'static str) {
        self.left.retain(|left| *left != flag);
    }

    fn end(self) -> anyhow::Result<()> {
        match self.left.as_slice() {
            [] => Ok(()),
            left => bail!("{} is not for {}", left.join(" and "), self.what),
        }
    }
}

impl NetworkFlags {
    /// The network of the word alone.
    pub(super) fn plain(&self) -> Option<Architecture> {
        self.network.map(NetworkKind::plain)
    }

    /// Puts the flags into a network. Another word than its own begins anew.
    ///
    /// # Errors
    ///
    /// When a flag is not for that network.
    pub(super) fn apply(&self, network: &mut Architecture) -> anyhow::Result<()> {
        if let Some(kind) = self.network.filter(|kind| *kind != NetworkKind::of(network)) {
            *network = kind.plain();
        }
        let what = network.to_string();
        let mut given = Given { left: self.given(), what: &what };
        let hidden_layers = || -> Vec<usize> { self.hidden.iter().copied().filter(|&units| units > 0).collect() };
        match network {
            Architecture::Cnn { channels, hidden } => {
                if let Some(new) = self.several("--channels", &self.channels, 2, &mut given)? {
                    *channels = [new[0], new[1]];
                }
                if let Some(new) = self.several("--hidden", &self.hidden, 1, &mut given)? {
                    *hidden = new[0];
                }
            }
            Architecture::Mlp { hidden, activation } => {
                given.take("--hidden");
                if !self.hidden.is_empty() {
                    *hidden = hidden_layers();
                }
                set(activation, self.activation, "--activation", &mut given);
            }
            Architecture::Convnet { channels, side, norm, hidden, activation } => {
                given.take("--channels");
                given.take("--hidden");
                if !self.channels.is_empty() {
                    channels.clone_from(&self.channels);
                }
                if !self.hidden.is_empty() {
                    *hidden = hidden_layers();
                }
                set(side, self.side, "--side", &mut given);
                set(norm, self.norm, "--norm", &mut given);
                set(activation, self.activation, "--activation", &mut given);
            }
            Architecture::Densenet { depth, growth, norm, .. } => {
                set(depth, self.depth, "--depth", &mut given);
                set(growth, self.growth, "--growth", &mut given);
                set(norm, self.norm, "--norm", &mut given);
            }
            Architecture::Resnet { width, norm, .. } | Architecture::Resnet9 { width, norm } => {
                if let Some(new) = self.several("--channels", &self.channels, 1, &mut given)? {
                    *width = new[0];
                }
                set(norm, self.norm, "--norm", &mut given);
            }
            Architecture::MlLeaks => {}
        }
        given.end()
    }

    /// The flags that refine a network and were given.
    fn given(&self) -> Vec<&'static str> {
        let flags = [
            ("--channels", !self.channels.is_empty()),
            ("--hidden", !self.hidden.is_empty()),
            ("--side", self.side.is_some()),
            ("--norm", self.norm.is_some()),
            ("--activation", self.activation.is_some()),
            ("--depth", self.depth.is_some()),
            ("--growth", self.growth.is_some()),
        ];
        flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect()
    }

    /// A list of exactly `n` numbers, where it was given.
    fn several<'a>(
        &self,
        flag: &'static str,
        numbers: &'a [usize],
        n: usize,
        given: &mut Given<'_>,
    ) -> anyhow::Result<Option<&'a [usize]>> {
        given.take(flag);
        ensure!(
            numbers.is_empty() || numbers.len() == n,
            "{flag}: expected {n} for {}, got {}",
            given.what,
            numbers.len()
        );
        Ok(Some(numbers).filter(|numbers| !numbers.is_empty()))
    }
}

fn set<T: Copy>(entry: &mut T, given: Option<T>, flag: &'static str, all: &mut Given<'_>) {
    all.take(flag);
    *entry = given.unwrap_or(*entry);
}
