"""The bundled methods, one a file. This page is their table of contents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mtl

Register = Callable[[str, Any], None]


@mtl.hookimpl
def mtl_register_strategies(register: Register) -> None:
    register("anil", "mtl_plugins.anil:ANIL")
    register("balanced", "mtl_plugins.balanced:Balanced")
    register("balanced-at-once", "mtl_plugins.balanced_at_once:BalancedAtOnce")
    register("balanced-features", "mtl_plugins.balanced_features:BalancedFeatures")
    register("fomaml", "mtl_plugins.fomaml:FOMAML")
    register("imaml", "mtl_plugins.imaml:IMAML")
    register("joint", "mtl_plugins.joint:Joint")
    register("kfo", "mtl_plugins.kfo:KFO")
    register("maml", "mtl_plugins.maml:MAML")
    register("matching", "mtl_plugins.matching_network:MatchingNetwork")
    register("meta-sgd", "mtl_plugins.meta_sgd:MetaSGD")
    register("none", "mtl_plugins.none:Untouched")
    register("protomaml", "mtl_plugins.protomaml:ProtoMAML")
    register("protonet", "mtl_plugins.protonet:ProtoNet")
    register("r2d2", "mtl_plugins.r2d2:R2D2")
    register("reptile", "mtl_plugins.reptile:Reptile")
    register("single", "mtl_plugins.single:Single")


@mtl.hookimpl
def mtl_register_weightings(register: Register) -> None:
    register("dwa", "mtl_plugins.dwa:DynamicWeightAverage")
    register("imtl-l", "mtl_plugins.imtl_l:IMTLL")
    register("random", "mtl_plugins.random_weighting:RandomWeighting")
    register("static", "mtl_plugins.static:Static")
    register("uncertainty", "mtl_plugins.uncertainty:Uncertainty")


@mtl.hookimpl
def mtl_register_aggregations(register: Register) -> None:
    register("aligned-mtl", "mtl_plugins.torchjd_methods:AlignedMTL")
    register("cagrad", "mtl_plugins.torchjd_methods:CAGrad")
    register("fairgrad", "mtl_plugins.torchjd_methods:FairGrad")
    register("famo", "mtl_plugins.torchjd_methods:FAMO")
    register("geometric-mean", "mtl_plugins.torchjd_methods:GeometricMean")
    register("graddrop", "mtl_plugins.graddrop:GradDrop")
    register("gradnorm", "mtl_plugins.gradnorm:GradNorm")
    register("gradvac", "mtl_plugins.torchjd_methods:GradVac")
    register("imtl-g", "mtl_plugins.torchjd_methods:IMTLG")
    register("mean", "mtl_plugins.mean:Mean")
    register("mgda", "mtl_plugins.torchjd_methods:MGDA")
    register("nash-mtl", "mtl_plugins.torchjd_methods:NashMTL")
    register("pcgrad", "mtl_plugins.torchjd_methods:PCGrad")
    register("stch", "mtl_plugins.torchjd_methods:STCH")
    register("upgrad", "mtl_plugins.torchjd_methods:UPGrad")


@mtl.hookimpl
def mtl_register_samplers(register: Register) -> None:
    register("annealed", "mtl_plugins.annealed:Annealed")
    register("proportional", "mtl_plugins.proportional:Proportional")
    register("temperature", "mtl_plugins.temperature:Temperature")
    register("uniform", "mtl_plugins.uniform:Uniform")


@mtl.hookimpl
def mtl_register_adaptations(register: Register) -> None:
    register("adapter", "mtl_plugins.adapter_tuning:AdapterTuning")
    register("contrastive", "mtl_plugins.contrastive:Contrastive")
    register("full", "mtl_plugins.full:FullFineTuning")
    register("head", "mtl_plugins.head_only:HeadOnly")
    register("logistic", "mtl_plugins.logistic:Logistic")
    register("lora", "mtl_plugins.lora_tuning:LoRATuning")
    register("matching", "mtl_plugins.matching:Matching")
    register("prototype", "mtl_plugins.prototype:Prototype")
    register("ridge", "mtl_plugins.ridge:Ridge")
    register("soft-k-means", "mtl_plugins.soft_k_means:SoftKMeans")
    register("top-layers", "mtl_plugins.top_layers:TopLayers")


@mtl.hookimpl
def mtl_register_adapters(register: Register) -> None:
    register("adalora", "mtl_plugins.adalora:AdaLoRA")
    register("bottleneck", "mtl_plugins.bottleneck:BottleneckAdapter")
    register("branch", "mtl_plugins.branch:Branching")
    register("dora", "mtl_plugins.dora:DoRA")
    register("ia3", "mtl_plugins.ia3:IA3")
    register("lora", "mtl_plugins.lora:LoRA")
    register("prefix", "mtl_plugins.prefix:PrefixTuning")
    register("task-embedding", "mtl_plugins.task_embedding:TaskEmbedding")


@mtl.hookimpl
def mtl_register_protocols(register: Register) -> None:
    register("domain", "mtl_plugins.domain:Domain")
    register("episodic", "mtl_plugins.episodic:Episodic")
    register("supports", "mtl_plugins.supports:Supports")


@mtl.hookimpl
def mtl_register_backends(register: Register) -> None:
    register("dask", "mtl_plugins.dask:Dask")
    register("loky", "mtl_plugins.loky:Loky")
    register("ray", "mtl_plugins.ray:Ray")


@mtl.hookimpl
def mtl_register_encoders(register: Register) -> None:
    register("minilm", "mtl_plugins.minilm:locate")
