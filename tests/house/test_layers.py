"""The rooms of the house: which may know which, and in each room, which file may know which."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import jsplit
from tests import smoke
from tests.house.source import tree_of

SOURCE = Path(jsplit.__file__).parent

# From the ground up: a room may import from those named beside it, and from itself.
ROOMS = {
    "core": "",
    "guarding": "core",
    "jaxprs": "core",
    "segments": "core jaxprs",
    "slicing": "core jaxprs segments",
    "compress": "core",
    "topology": "core segments",
    "training": "core jaxprs topology",
    "tabular": "core",
    "populations": "core",
    "population": "populations",
    "rounds": "core jaxprs topology training populations",
    "costing": "core jaxprs segments slicing topology training",
    "privacy": "core guarding jaxprs segments slicing compress topology training populations "
    "rounds costing",
    "runs": "costing",
    "fitting": "core topology training populations rounds",
    "wire": "",
    "party": "core fitting guarding tabular compress topology training wire",
    "commands": "core fitting guarding party privacy topology training",
    "command": "commands",
    "__main__": "command",
}
# Inside a room a file may import those before it in its row; `__init__`, the door, all of them.
INSIDE = {
    "core": (
        "closing html carried handed pytrees cache checks strength gradient_noise link finite "
        "typed_jax hidden tied powers base arrays donation foreign recent "
        "files locks ids identified tables trainer keys receiving links paths pieces frozen "
        "federation secret_keys loans checkpoint_paths checkpoint placement trees"
    ),
    "guarding": "flattening readable directions chain evidence in_a_row tally",
    "jaxprs": (
        "conv_layout flat conv_forms dependence macs passed_on pooling reads rewriting slices tags "
        "computed_again conv_choice halves convolutions compiling least_cut wrapping no_zero "
        "rearranged same_values some_turns rows scans "
        "proving.facts proving.bits proving.spanning proving.affine proving.slopes proving.pieces "
        "proving.curves "
        "proving.moving proving.complexes proving.signs proving.arithmetic "
        "proving.unordered proving.placing proving.choosing proving.mixing proving.looping "
        "proving.interpreting proving.given proving.term_rules proving.terms "
        "proving.whole_numbers proving.drawing proving.jointly proving.nonzero "
        "proving.sums proving.results proving.recovery"
    ),
    "segments": (
        "flags arguments axes example call captured interception written flax one_mode "
        "trainable from_model attention_caches cache_starts decoding precision"
    ),
    "slicing": (
        "filed leaf_places initial joining loading mark merging separators trace layers unread "
        "batch_axis beside around handing said_values telling carrying in_pieces stacked "
        "model_call "
        "traced_model refusals statistics ownership tying frozen_leaves cut_point cut_candidates "
        "free_axes other_sizes slice_segment decoders splitting weight_files weight_names "
        "weight_groups weight_stacks weight_fit weight_pieces pretrained weight_saving"
    ),
    "topology": (
        "handoffs names metrics losses nodes ties crossings own_values replacing text validation "
        "graph "
        "configurations.public configurations.building decoupling drawing.scene "
        "configurations.chains "
        "configurations.merging configurations.uncut drawing.flowchart drawing.legs "
        "drawing.across drawing.routes drawing.layout drawing.symbols drawing.picture"
    ),
    "training": (
        "class_numbers dynamic_scale config free_sizes export global_norm hyperparams kinds "
        "left_out signatures staleness vjp walk step_numbers wires strengths "
        "scalar_exchange loss_scale loss_value cotangents losses link_checks whole_paths "
        "leaf_by_leaf optimizer_parts optimizers processes meshes configure randomness unscaled "
        "own_reads crossing "
        "pulled_back first_links first_node undone raw_crossings metrics program_names executor "
        "store keys_apart base_hash trained_files copies segment_ops sums gradient_noise "
        "unseen_loss step "
        "update initial known activation_reads cotangent_reads passing nonfinite verdicts "
        "evaluating walks recorded recording own_record places same_for_others microbatches timing "
        "party_programs fused record "
        "messages same_pieces cached_walk call_checks sessions generating"
    ),
    "tabular": "reading table aligning recipes fitted fitting storing preprocess",
    "populations": "checks known reading stored round population partitions poisson",
    "rounds": (
        "averages client_mesh noise own_optimizers restarts sharing recording state "
        "algorithm carry client_receiver client_noise client_axis for_each_client "
        "forms inputs gathering "
        "round_end "
        "round_method measuring "
        "all_steps programs round_metrics tables driver local_training synchronous "
        "split_learning baselines host_rows clients_on_host"
    ),
    "costing": (
        "party_cost leak_picture leak_scores cut_plan machines run_cost step_cost "
        "traced_step count_step party_summary prefixes passes baseline_runs planning split_runs"
    ),
    "wire": (
        "credentials denied errors json_types layout open_files pipe said signatures "
        "difference private door steps credential_files certs proof frames "
        "key_exchange rota codec identity schedule epoch_schedule chunks relay terms admission "
        "channel control claims handshake seal same_records session transport memory "
        "rendezvous listening rpc_unknown rpc_options rpc_listener signs versions traffic member "
        "rpc"
    ),
    "party": (
        "compute.programs connection.interrupts connection.passing connection.outbox "
        "connection.reach connection.strays contract.entries contract.entry_types "
        "contract.link_names contract.plain_names contract.record_order "
        "contract.ids_key contract.schema contract.field_types bounds faults "
        "finite_states base folder scarce_files saved_on_base in_memory versions connection.vigil "
        "results compute.handover compute.interleave compute.prefetch "
        "contract.file_types contract.placeholders durable saved_states "
        "compute.pipeline contract.turns_check task contract.turns compute.exchange "
        "contract.epochs contract.seconds contract.frozen_part contract.measured contract.checks "
        "contract.agreement_attributes "
        "contract.routes contract.exchanged contract.unread contract.agreement "
        "compute.payloads compute.first_state compute.own_config connection.newcomers "
        "connection.comebacks connection.peers contract.draft contract.files replay "
        "compute.local compute.at_cut "
        "compute.warming connection.absence crossings_of_epochs epoch_losses epoch_verdicts "
        "kept_epochs begun_with epoch_arguments connection.farewell connection.reader "
        "connection.skipping contract.sample connection.connections crossings_of_run sealing "
        "connection.network incoming recorder guarded_values guarded_window guard_of_run process "
        "brought_records passes validating records_of_validation matching join epochs_of_run "
        "steps infer running by_epochs "
        "serving.words serving.part serving.side_by_side serving.lanes serving.course "
        "serving.ahead serving.lines serving.table serving.served serving.opening "
        "serving.together serving.waiting serving.outward serving.calls serving.server "
        "serving.serve serving.given serving.asking serving.remote serving.session serving.sample"
    ),
    "privacy": (
        "scores traffic viewing.records recorded_steps watching watched_training guarded "
        "measures.estimate "
        "measures.records measures.student "
        "measures.bootstrap measures.distances measures.correlation "
        "measures.batched measures.auc measures.rates measures.images "
        "measures.reconstructed measures.probes measures.information measures.bound "
        "viewing.view viewing.showing "
        "viewing.all_views viewing.structure viewing.tracing viewing.following "
        "viewing.observing viewing.asking "
        "viewing.examining viewing.building attacks.attack attacks.rates "
        "attacks.labels.seen "
        "attacks.labels.judging attacks.labels.groups attacks.labels.norm "
        "attacks.labels.cosine attacks.labels.kmeans attacks.labels.clusters "
        "attacks.labels.matching attacks.labels.mixing attacks.labels.fitting "
        "attacks.labels.completion attacks.labels.speeding "
        "guarantees.gaussian guarantees.pure guarantees.sampled "
        "guarantees.grid guarantees.mechanism guarantees.axis_rules guarantees.index_rules "
        "guarantees.apart guarantees.programs guarantees.rows guarantees.reach "
        "guarantees.statement "
        "guarantees.composing guarantees.conditions guarantees.asked "
        "guarantees.responses guarantees.stating "
        "guarantees.auditing "
        "attacks.inputs.likeness attacks.inputs.inversion attacks.inputs.seen "
        "attacks.inputs.networks "
        "attacks.inputs.fitting attacks.inputs.decoder "
        "attacks.inputs.unsplit attacks.inputs.hijackers "
        "attacks.inputs.hijacking attacks.inputs.hijacking_segment "
        "attacks.inputs.feature_space attacks.inputs.telling "
        "attacks.inputs.simulating attacks.inputs.watched attacks.inputs.simulators "
        "attacks.inputs.simulation "
        "attacks.inputs.property attacks.inputs.membership "
        "attacks.inputs.tokens attacks.inputs.nearest attacks.inputs.inverter "
        "defences.records defences.activation_noise defences.noise_power "
        "defences.class_noise defences.norm_noise defences.decorrelation "
        "defences.label_answers defences.least_records defences.own_rows "
        "defences.record_clipping "
        "defences.private_training "
        "defences.bottleneck "
        "reporting.pictures reporting.ranges reporting.of_tokens "
        "reporting.records reporting.attempt reporting.doubts reporting.forms "
        "reporting.registered reporting.training reporting.inference reporting.knowing "
        "reporting.jobs reporting.trying reporting.measuring reporting.outcome reporting.tables "
        "reporting.formats reporting.encoding reporting.whole reporting.reporting "
        "reporting.by_cut"
    ),
    "fitting": "history records calling schedules class_weights monitor interrupts pieces arrays "
    "tally saved client_rounds plan asked loop over_epochs callbacks",
    "commands": "functions outputs agreements brought stderr_bound statuses stopping epochs tasks "
    "whole_training archives report serving prompts asking parser",
    "compress": "by_record casting feedback projecting quantizing sparsifying temporal registry",
}
OUTSIDE = {"jax", "optax", "numpy"}
KNOWS = {  # packages beyond these, and the only files that may import them
    "segments.from_model": {"flax"},
    "segments.arguments": {"flax"},
    "segments.attention_caches": {"flax"},
    "segments.decoding": {"flax"},
    "segments.example": {"flax"},
    "segments.call": {"flax"},
    "segments.captured": {"flax"},
    "segments.flax": {"flax"},
    "segments.interception": {"flax"},
    "segments.one_mode": {"flax"},
    "segments.written": {"flax"},
    "segments.trainable": {"flax"},
    "privacy.attacks.labels.judging": {"scipy"},
    "topology.drawing.picture": {"matplotlib"},
    "topology.drawing.symbols": {"matplotlib"},
    "core.tables": {"matplotlib"},
    "costing.step_cost": {"matplotlib"},
    "fitting.history": {"matplotlib"},
    "costing.cut_plan": {"matplotlib"},
    "costing.leak_picture": {"matplotlib"},
    "privacy.measures.images": {"dm_pix"},
    "privacy.measures.student": {"scipy"},
    "privacy.reporting.pictures": {"matplotlib"},
    "privacy.measures.probes": {"sklearn"},
    "privacy.measures.bound": {"sklearn"},
    "privacy.guarantees.sampled": {"dp_accounting"},  # inside a function
    "slicing.weight_files": {"safetensors", "gguf"},  # inside a function
    "tabular.fitting": {"sklearn"},  # inside a function
    "wire.key_exchange": {"cryptography"},
    "wire.rpc": {"grpc"},
    "wire.rpc_listener": {"grpc"},
    "wire.rpc_unknown": {"grpc"},
    "wire.identity": {"cryptography"},
    "wire.certs": {"cryptography"},
    "wire.credential_files": {"cryptography"},
    "wire.proof": {"cryptography"},
    "wire.seal": {"cryptography"},
    "wire.signatures": {"cryptography"},
}
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {
    ".".join(f.relative_to(SOURCE).with_suffix("").parts): f
    for f in FILES
    if f.name != "__init__.py"
}
OURS = {f"jsplit.{m}" for m in MODULES}


@cache
def imports(file: Path) -> set[str]:
    """All that a file imports, modules of jsplit by their dotted names within it."""
    found = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{a.name}" for a in node.names}
            found |= {i if i in OURS else str(node.module) for i in inner}
    return {n.removeprefix("jsplit.") for n in found}


def ours(file: Path) -> set[str]:
    return {n for n in imports(file) if n.split(".")[0] in ROOMS}


def test_a_file_imports_only_rooms_below_its_own_and_files_before_it():
    wrong = {}
    for name, file in MODULES.items():
        room, _, own = name.partition(".")
        above = {n.split(".")[0] for n in ours(file)} - {room, *ROOMS[room].split()}
        inside = {
            n.removeprefix(f"{room}.") for n in ours(file) if n.startswith(f"{room}.")
        }
        row = INSIDE[room].split() if own else []
        # A file that stands in no row may import none of its room.
        before = row[: row.index(own)] if own in row else []
        if above or (own and inside - {*before}):
            wrong[name] = above | (inside - {*before})
    assert not wrong


def test_the_table_has_every_file_once():
    inside = [
        f"{room}.{file}" for room, files in INSIDE.items() for file in files.split()
    ]
    assert sorted(inside) == sorted(m for m in MODULES if "." in m)
    assert {m.split(".")[0] for m in MODULES} == {*ROOMS}
    for room, below in ROOMS.items():  # so no room can know one that knows it
        assert [*ROOMS].index(room) >= max(
            (1 + [*ROOMS].index(b) for b in below.split()), default=0
        )


def test_a_door_only_hands_on_names():
    doors = [file for file in FILES if file.name == "__init__.py"]
    for door in doors:
        assert ast.get_docstring(tree_of(door)), door
    # The first thing in each is its docstring.
    for door, node in [(d, n) for d in doors for n in tree_of(d).body[1:]]:
        hands_on = isinstance(node, (ast.ImportFrom, ast.Import))
        lists = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in {
            "__all__",
            "__version__",
        }
        # All that the door of a package within lists, where one name a line is too many.
        adds = isinstance(node, ast.AugAssign) and ast.unparse(node).startswith(
            "__all__ += "
        )
        shows = isinstance(node, ast.FunctionDef) and node.name == "__dir__"
        assert hands_on or lists or adds or shows, (door, ast.unparse(node))


def test_a_file_knows_only_the_packages_it_may():
    wrong, private = {}, {}
    for name, file in MODULES.items():
        packages = {n.split(".")[0] for n in imports(file)} - {"jsplit", *ROOMS}
        packages -= sys.stdlib_module_names | OUTSIDE | KNOWS.get(name, set())
        if packages:
            wrong[name] = packages
        if inner := [n for n in imports(file) if "_src" in n]:
            private[name] = inner
    assert not wrong
    assert not private, "only public interfaces"


def test_importing_jsplit_imports_no_extra():
    extras = {"grpc", "cryptography", "matplotlib", "sklearn", "dm_pix", "torch"}
    extras |= {"dp_accounting", "safetensors", "gguf", "tokenizers"}
    extras |= {"tensorboardX", "mlflow", "wandb"}
    code = f"import jsplit, sys; print({extras} & {{*sys.modules}})"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "set()"
    )


def test_the_smoke_test_has_a_law_of_every_room_that_exists():
    """By the functions of the files it names; the package's doors and commands are no rooms."""
    rooms = {f.parent.relative_to(SOURCE).parts[0] for f in FILES if f.parent != SOURCE}
    assert {*smoke.ROOMS} == rooms | {"house"}
    for names in smoke.ROOMS.values():
        for name in names:
            file, _, test = name.partition("::")
            tree = ast.parse((Path(smoke.__file__).parent / file).read_text())
            known = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
            assert not test or test.partition("[")[0] in known, name
