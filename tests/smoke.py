"""What `make smoke` runs: a law or two of every room, to know within a minute whether all stands.

A line names a test, with all its points, or one point of it.
"""

from __future__ import annotations

ROOMS = {
    "core": (
        "core/test_checkpoint.py::test_names_with_slashes_never_share_a_place",
        "core/test_checkpoint.py::test_a_failed_write_leaves_the_old_file",
        "core/test_fields.py::test_what_can_be_read_holds_the_same_values",
    ),
    "guarding": (
        "guarding/test_chain_rule.py::test_of_an_affine_answer_the_cosine_is_one",
    ),
    "jaxprs": (
        "jaxprs/test_macs.py::test_the_costliest_branch_counts_and_the_body_of_a_while_once",
        "jaxprs/test_halves.py::test_only_a_turn_that_sends_and_learns_is_two_programs",
        "jaxprs/test_convolutions.py::test_in_a_whole_step_nothing_slow_is_left_and_numbers_are_the_same[2]",
    ),
    "segments": (
        "segments/test_segment.py::test_an_nnx_segment_is_the_reseeded_module",
        "segments/test_segment.py::test_a_linen_segment_is_the_module",
    ),
    "slicing": (
        "slicing/test_split.py::test_split_then_join_is_the_whole_model[cnn]",
        "slicing/test_split.py::test_split_then_join_is_the_whole_model[linen cnn]",
        "slicing/test_cut_points.py::test_cut_points_have_readable_names",
    ),
    "topology": (
        "topology/test_topology.py::test_the_paper_s_configurations_cross_what_the_paper_says",
        "topology/test_draw.py::test_mermaid_names_every_party_field_and_node_once",
    ),
    "training": (
        # Split is whole, and the two interpreters agree in all six configurations.
        "training/test_equivalence.py::test_split_training_is_whole_training[u_shaped-cnn-linen-messages-residuals]",
        "training/test_left_out.py::test_what_is_left_out_may_hold_anything[1-fused]",
        "training/test_nonfinite.py::test_a_skipped_step_leaves_all_but_its_number_as_it_was[1-fused]",
        "training/test_donation.py::test_a_state_in_hand_stays_valid[fused]",
        "training/test_optimizers.py::test_clipping_by_the_global_norm_is_that_of_the_whole_model[vanilla]",
        "training/test_links.py::test_with_a_link_on_every_crossing_fused_equals_messages",
    ),
    "tabular": (
        "tabular/test_records.py::test_alignment_is_an_inner_join_in_one_order",
        "tabular/test_preprocessing.py::test_what_is_held_out_changes_nothing_that_is_fitted",
    ),
    "populations": (
        "rounds/test_population.py::test_every_record_belongs_to_exactly_one_client",
    ),
    "compress": ("training/test_compress.py::test_packing_and_unpacking_are_inverse",),
    "commands": ("party/test_command.py::test_the_version_is_said",),
    "rounds": (
        "rounds/test_averages.py::test_splitfed_with_one_local_step_of_sgd_is_large_batch_sgd",
        "rounds/test_nonfinite_rounds.py::test_of_several_rounds_the_first_bad_step_is_named",
        "rounds/test_turns.py::test_turns_of_ragged_clients_train_on_every_record_and_on_nothing_else",
    ),
    "fitting": (
        "fitting/test_fit.py::test_it_is_the_loop_that_one_would_write",
        "fitting/test_resuming.py::test_ctrl_c_ends_after_the_step_with_the_state_in_hand[2-False]",
    ),
    "privacy": (
        "privacy/test_scores.py::test_a_score_beats_chance_if_its_whole_interval_does",
    ),
    "costing": (
        "costing/test_runs.py::test_federated_averaging_moves_the_whole_model_twice_a_round",
        "costing/test_cost.py::test_micro_batches_send_the_predicted_messages_and_keep_less",
    ),
    "wire": (
        "wire/test_wire_codec.py::test_every_dtype_crosses_bit_for_bit",
        "wire/test_wire_channel.py::test_frames_arrive_whole_and_in_order_both_ways",
    ),
    "party": (
        "party/test_party.py::test_over_the_network_training_is_what_it_is_in_one_process"
        "[u_shaped-mlp-linen-1-quantize(8)-2]",
    ),
    "house": (
        "house/test_layers.py",
        "house/test_exports.py",
        "house/test_readme.py::test_the_python_blocks_run_one_after_the_other",
    ),
}


def belongs(test: str) -> bool:
    """Whether a test, by its id below `tests/`, is one of these or a point of one."""
    return any(
        test == name or test.startswith((f"{name}[", f"{name}::"))
        for names in ROOMS.values()
        for name in names
    )
