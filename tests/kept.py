"""Of tests with many points, what `make test` keeps; `make test-slow` runs all the others.

A new point of a test that stands in `KEPT` is slow unless it is written down here.
"""

from __future__ import annotations

# Points that stay: in one configuration, one interpreter or one algorithm of rounds where
# `training/test_equivalence.py` or a cheaper test of the same room holds all of them.
KEPT = {
    "costing/test_cost.py": {
        "test_the_messages_of_a_run_are_the_predicted_ones_exactly": ("vanilla-cast",),
        "test_the_work_of_all_parties_is_the_whole_model_s": ("u_shaped-cnn",),
        "test_memory_that_lasts_is_that_of_the_state": ("u_shaped-nnx",),
        "test_what_a_client_keeps_between_its_turns_is_what_was_predicted": (
            "mlp-recompute",
        ),
    },
    "jaxprs/test_halves.py": {
        "test_what_is_sent_does_not_wait_for_what_is_learned": (
            "u_shaped",
            "multihop",
        ),
        "test_both_programs_together_are_the_turn": ("vanilla-cnn-residuals",),
    },
    "party/test_adversary_claims.py": {
        "test_a_lead_cannot_choose_how_many_records_a_party_trains_on": ("3000000000",),
        "test_finite_poison_is_never_saved_and_its_sender_is_named": ("refuse",),
        "test_a_hand_over_that_is_not_finite_is_refused_by_name": ("False",),
    },
    "party/test_adversary_doors.py": {
        "test_a_flood_of_outsiders_costs_no_run_its_checkpoints": ("False",),
        "test_a_connection_without_a_hello_ends_on_either_side": (
            "half a hello, byte by byte-listens",
        ),
    },
    "party/test_compiled_ahead.py": {
        "test_nothing_is_compiled_in_a_step": (
            "vertical-options0",
            "pair-options2",
        ),
    },
    "party/test_party.py": {
        "test_over_the_network_training_is_what_it_is_in_one_process": (
            "u_shaped-mlp-linen-1-quantize(8)-2",
        ),
    },
    "party/test_party_agreement.py": {
        "test_values_that_are_not_finite_end_the_run_of_all_or_are_allowed": (
            "vertical",
        ),
    },
    "party/test_party_ahead.py": {
        "test_over_the_network_a_frozen_head_gives_what_it_gives_in_one_process": (
            "1",
        ),
    },
    "party/test_party_chaos.py": {
        "test_faults_and_deaths_of_every_party_leave_no_trace": ("chain-None",),
    },
    "party/test_party_infer.py": {
        "test_all_infer_with_the_newest_step_that_all_have": ("server",),
    },
    "party/test_party_memory.py": {
        "test_parties_in_one_process_train_as_messages_does": ("vertical",),
    },
    "party/test_party_network.py": {
        "test_a_transport_of_one_s_own_may_fail_as_sockets_do_and_is_dialled_again": (
            "OSError",
        ),
    },
    "party/test_party_numbers.py": {
        "test_parties_clip_by_the_norm_of_all": ("1-pair",),
        "test_parties_that_clip_by_the_norm_of_all_train_as_the_whole_model_does": (
            "vertical",
        ),
        "test_a_record_of_weight_0_is_left_out_at_all_parties": ("1",),
    },
    "party/test_party_pipeline.py": {
        "test_over_the_network_steps_overlap_as_in_one_thread": (
            "u_shaped-mlp-2-recompute-links1",
        ),
        "test_the_client_of_two_trains_as_one_whose_gradients_arrive_late": ("2",),
    },
    "party/test_party_secret.py": {
        "test_parties_draw_what_one_process_draws_with_their_secrets": ("1-64.0",),
        "test_a_party_that_was_killed_repeats_its_own_noise": ("deaths1",),
        "test_over_the_network_a_receiver_takes_public_noise_off_and_secret_noise_it_cannot": (
            "True",
        ),
    },
    "party/test_party_turns.py": {
        "test_clients_in_turns_train_as_the_whole_does_on_the_same_batches": (
            "small-mlp-peer-listens3-1",
        ),
        "test_a_client_that_stays_away_is_passed_over_until_it_comes_back": (
            "peer-False",
        ),
    },
    "party/test_stderr_bound.py": {
        "test_a_process_says_its_last_words_also_when_it_aborts": ("True",),
    },
    "party/test_vigil.py": {
        "test_a_step_that_takes_longer_than_patience_is_waited_for": ("lab",),
    },
    "party/test_words.py": {
        "test_what_who_dials_says_is_quoted_in_logs_and_errors": ("all",),
    },
    "privacy/test_attacks_on_labels.py": {
        "test_labels_leak_to_a_client_and_neither_noise_nor_shuffled_labels_do": (
            "norm_attack",
            "cosine_attack",
        ),
        "test_an_attack_on_noise_does_not_beat_chance": (
            "norm_attack",
            "cosine_attack",
        ),
    },
    "privacy/test_bottleneck.py": {
        "test_the_gradient_is_that_of_the_reparametrised_objective": ("messages",),
        "test_in_rounds_a_deviation_is_learned_too": ("splitfed",),
        "test_in_rounds_it_runs_and_is_not_the_plain_round": ("take_turns",),
        "test_over_the_network_it_is_the_run_in_one_process": ("False",),
    },
    "privacy/test_defences_everywhere.py": {
        "test_a_strength_of_0_is_the_plain_run_bit_for_bit_and_one_program_is_all": (
            "max_norm-fused",
            "isotropic-fused",
        ),
        "test_fused_and_messages_draw_the_same_noise": (
            "max_norm",
            "isotropic",
        ),
        "test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not": (
            "take_turns-max_norm",
        ),
        "test_over_the_network_it_is_the_run_in_one_process": ("max_norm",),
    },
    "privacy/test_defences_noise.py": {
        "test_noise_on_activations_has_the_deviation_it_states_and_is_unbiased": (
            "gaussian-1.0",
        ),
        "test_a_batch_of_one_record_and_one_without_cotangents_give_numbers": (
            "link1",
            "link2",
        ),
    },
    "privacy/test_distance_correlation.py": {
        "test_of_independent_values_it_is_large_and_corrected_it_is_nothing": (
            "32-0.96",
        ),
        "test_of_two_normal_numbers_it_is_the_closed_form": (
            "0.6",
            "0.9",
        ),
        "test_what_weighs_nothing_may_hold_anything_and_counts_for_nothing": ("True",),
        "test_its_gradient_is_that_of_finite_differences": (
            "1.0-False",
            "2.0-True",
        ),
        "test_its_gradient_is_finite_at_equal_records": (
            "1.0-True",
            "2.0-False",
        ),
    },
    "privacy/test_guarantees.py": {
        "test_of_real_layers_batch_norm_alone_mixes_records": ("<lambda>-mixes1",),
        "test_a_scale_may_be_a_strength_by_what_it_is_called_or_set_by": ("told",),
    },
    "privacy/test_guard.py": {
        "test_a_server_with_a_loss_of_its_own_is_found_and_an_honest_one_is_not": (
            "vanilla-one way",
        ),
    },
    "privacy/test_intervals.py": {
        "test_the_bootstrap_holds_a_mean_95_times_of_100": ("100",),
    },
    "privacy/test_model_completion.py": {
        "test_few_labels_complete_a_model_and_shuffled_ones_do_not": ("supervised",),
        "test_no_label_that_is_not_known_is_read": ("supervised",),
    },
    "privacy/test_nopeek.py": {
        "test_a_record_of_weight_2_is_that_record_twice_and_of_weight_0_is_none": (
            "messages",
        ),
    },
    "privacy/test_private_training.py": {
        "test_each_record_is_clipped_as_by_hand_in_both_parts": ("100.0-fused",),
    },
    "privacy/test_records_apart.py": {
        "test_layers_of_one_record_each_are_shown_to_keep_records_apart": (
            "each alone",
            "rows of all",
            "tokens first",
            "sorted",
            "part set",
        ),
        "test_losses_of_a_record_s_own_label_are_shown_to_keep_records_apart": (
            "by record",
            "a mean",
        ),
    },
    "privacy/test_report.py": {
        "test_known_labels_are_no_part_of_what_is_guessed": ("known1",),
        "test_every_cut_and_party_with_a_threat_is_attacked": ("u_shaped",),
    },
    "privacy/test_traffic.py": {
        "test_what_one_sends_another_receives": ("vanilla",),
    },
    "privacy/test_views.py": {
        "test_messages_have_the_shapes_and_bytes_of_a_step": ("vanilla",),
    },
    "rounds/test_averages.py": {
        "test_optimizer_states_are_fresh_averaged_or_each_client_s_own": ("own",),
        "test_no_number_depends_on_the_order_in_which_clients_are_listed": (
            "averaged-2",
        ),
        "test_the_best_loss_so_far_begins_with_infinity_and_becomes_a_number": (
            "averaged",
        ),
    },
    "rounds/test_brought_fields.py": {
        "test_a_trainer_takes_tables_as_the_arrays_they_hold": ("fused",),
    },
    "rounds/test_nonfinite_rounds.py": {
        "test_a_round_with_a_step_that_is_not_finite_is_refused_with_its_number": (
            "turns",
        ),
        "test_a_step_whose_losses_are_finite_is_refused_for_what_it_keeps": (
            "last but one-large batch",
            "last-turns",
        ),
        "test_rounds_skip_the_bad_steps_alone": ("splitfed 1",),
        "test_clients_that_run_at_once_are_looked_at_too": ("fedavg",),
    },
    "rounds/test_one_client.py": {
        "test_the_whole_model_of_a_client_predicts_what_the_algorithm_does": (
            "centralized",
        ),
    },
    "rounds/test_parallel.py": {
        "test_parallel_with_shared_bottoms_is_one_large_batch": ("vertical",),
        "test_of_ragged_clients_the_large_batch_is_what_they_have": (
            "large_batch_sgd",
        ),
    },
    "rounds/test_recorded_rounds.py": {
        "test_a_round_records_what_the_single_trainer_does_step_by_step": (
            "splitfed 2",
        ),
        "test_a_step_of_all_records_each_clients_part_of_one_objective": (
            "parallel, shared",
        ),
    },
    "rounds/test_round_metrics.py": {
        "test_an_auc_of_a_round_is_of_all_examples_whatever_the_batches": (
            "turns, own bottoms",
            "parallel",
        ),
    },
    "rounds/test_rounds.py": {
        "test_a_round_in_which_everybody_fails_changes_nothing": (
            "splitfed 2",
            "turns",
        ),
        "test_rounds_of_one_shape_are_compiled_once": (
            "turns, own bottoms",
            "parallel, shared",
            "centralized",
        ),
        "test_a_client_that_fails_counts_as_far_as_it_got_or_not_at_all": (
            "parallel, shared-keep",
        ),
        "test_a_state_saved_and_restored_goes_on_bit_for_bit": ("splitfed 3",),
        "test_however_it_is_computed_an_algorithm_gives_the_same_numbers": (
            "turns",
            "large batch",
        ),
        "test_evaluation_is_by_client_and_overall": ("parallel, shared",),
    },
    "rounds/test_scaled_rounds.py": {
        "test_where_halves_are_averaged_each_client_keeps_its_scale": ("2",),
    },
    "rounds/test_schedules.py": {
        "test_a_rate_set_between_rounds_is_that_of_the_next_round": (
            "splitfed 3",
            "centralized",
        ),
        "test_a_schedule_goes_on_from_round_to_round": (
            "splitfed 3",
            "centralized",
        ),
    },
    "rounds/test_secret_rounds.py": {
        "test_each_client_has_a_secret_of_its_own_that_rounds_leave_alone": (
            "splitfed",
        ),
        "test_two_evaluations_draw_different_noise_unless_they_are_given_one_key": (
            "splitfed",
        ),
    },
    "rounds/test_turns.py": {
        "test_turns_with_hand_off_are_the_whole_model_on_the_same_batches": (
            "vertical-cnn-nnx-xla",
        ),
    },
    "segments/test_flags.py": {
        "test_every_constructor_that_takes_a_model_takes_its_flags": ("function",),
        "test_a_model_whose_dropout_never_acts_is_warned_of_once_where_it_is_traced": (
            "model0-options0-Dropout",
            "calls_a_module-options3-BatchNorm and Dropout",
        ),
    },
    "slicing/test_cut_points.py": {
        "test_every_cut_point_splits_and_joins_to_the_whole": ("one module twice",),
    },
    "slicing/test_parts.py": {
        "test_a_free_batch_size_can_be_exported": ("mlp",),
    },
    "slicing/test_split.py": {
        "test_split_then_join_is_the_whole_model": (
            "cnn",
            "one module twice",
            "statistics nobody reads",
            "bfloat16 and uint8",
            "keys with slashes",
            "linen cnn",
            "function",
            "function, one jit twice",
            "function, remat with policies divided",
            "function, derivatives of its own",
            "function, integers cross",
            "function, pytrees",
            "function, two parties",
            "function, keys with slashes",
            "function, a chain",
            "function, no parameters",
        ),
    },
    "topology/test_replace.py": {
        "test_a_server_trains_the_client_by_a_loss_of_its_own": (
            "fused-u_shaped",
            "messages-vanilla",
        ),
        "test_others_send_and_get_messages_of_the_same_shapes": ("vanilla",),
        "test_sums_of_all_parties_go_the_way_that_they_went": ("fused",),
    },
    "training/test_compress.py": {
        "test_quantisation_is_off_by_less_than_one_level": (
            "3",
            "4",
            "6",
            "8",
        ),
    },
    "training/test_donation.py": {
        "test_a_state_in_hand_stays_valid": ("fused",),
        "test_a_used_up_state_says_so_wherever_it_is_read": ("fused",),
    },
    "training/test_equivalence.py": {
        "test_split_training_is_whole_training_in_double_precision": (
            "vertical-mlp-nnx-ways16-adam",
        ),
    },
    "training/test_export.py": {
        "test_exported_segments_predict_what_the_trainer_predicts_at_another_batch_size": (
            "u_shaped-cnn",
        ),
    },
    "training/test_left_out.py": {
        "test_what_is_left_out_may_hold_anything": ("1-fused",),
        "test_what_is_left_out_is_as_if_it_were_not_there": ("fused",),
    },
    "training/test_link_reads.py": {
        "test_a_cotangent_link_reads_labels_of_the_same_records": ("2",),
        "test_in_rounds_a_link_is_told_each_clients_own_records": ("splitfed",),
    },
    "training/test_links.py": {
        "test_with_a_link_on_every_crossing_fused_equals_messages": (
            "vanilla-mlp-nnx",
            "u_shaped-mlp-linen",
        ),
        "test_every_crossing_is_one_message_and_one_back": (
            "vanilla",
            "multihop",
        ),
        "test_a_link_with_memory_keeps_it_from_message_to_message_in_every_interpreter": (
            "2",
        ),
    },
    "training/test_loss_scale.py": {
        "test_what_underflows_in_float16_trains_with_a_scale_as_in_float32": (
            "268435456.0-fused",
        ),
        "test_a_power_of_two_changes_no_bit_in_float32": ("32768.0-1-fused",),
        "test_it_is_the_whole_models_with_a_scale_written_by_hand": (
            "recompute-messages",
        ),
    },
    "training/test_losses.py": {
        "test_an_example_of_weight_zero_is_not_there": ("u_shaped-fused",),
        "test_weights_only_matter_relative_to_each_other_and_hold_over_micro_batches": (
            "fused",
        ),
        "test_a_loss_of_weight_zero_is_measured_and_changes_nothing": ("fused",),
        "test_a_detached_input_is_a_stopped_gradient": ("messages",),
        "test_a_loss_gives_a_number_or_one_for_each_example": ("fused",),
    },
    "training/test_metrics.py": {
        "test_an_auc_is_one_number_whatever_the_batches": ("messages",),
    },
    "training/test_nonfinite.py": {
        "test_a_step_that_leaves_what_is_not_finite_is_refused_and_the_state_in_hand_stays": (
            "messages",
        ),
        "test_a_skipped_step_leaves_all_but_its_number_as_it_was": ("1-fused",),
        "test_what_is_allowed_goes_on_and_nobody_looks": ("fused",),
        "test_a_class_number_out_of_range_is_refused_in_a_step_and_in_an_evaluation": (
            "1-3-fused",
            "2--1-fused",
        ),
    },
    "training/test_optimizers.py": {
        "test_clipping_by_the_global_norm_is_that_of_the_whole_model": ("vanilla",),
        "test_clipping_is_of_the_mean_over_micro_batches": ("fused",),
    },
    "training/test_parties.py": {
        "test_every_parameter_belongs_to_exactly_one_party": (
            "vanilla-nnx",
            "extended_vanilla-linen",
            "multitask-nnx",
        ),
    },
    "training/test_penalties.py": {
        "test_a_regulariser_sown_inside_a_client_s_segment_acts": ("residuals-fused",),
        "test_a_node_that_reaches_no_loss_keeps_its_parameters": ("messages",),
    },
    "training/test_record.py": {
        "test_what_is_recorded_is_the_same_in_both_interpreters": (
            "vanilla",
            "extended_vanilla",
        ),
        "test_a_recorded_step_leaves_the_bits_of_the_plain_one": ("fused-False-1",),
        "test_micro_batches_are_recorded_as_the_whole_batch_is": ("messages",),
        "test_a_link_of_several_micro_batches_is_recorded_message_by_message": (
            "messages",
        ),
        "test_cotangents_that_a_link_sees_unscaled_are_recorded_by_both_interpreters": (
            "1",
        ),
    },
    "training/test_secret.py": {
        "test_two_calls_and_two_batches_of_one_call_draw_different_noise": (
            "messages",
        ),
        "test_with_one_secret_fused_equals_messages_and_each_micro_batch_draws_anew": (
            "1",
        ),
        "test_a_step_replayed_from_a_checkpoint_repeats_the_bits": ("messages",),
        "test_under_a_loss_scale_noise_on_cotangents_has_its_stated_deviation": (
            "float16",
        ),
    },
    "training/test_sparse_links.py": {
        "test_places_are_as_narrow_as_they_can_be": ("70000-uint32",),
        "test_bytes_are_as_costed_and_k_of_all_numbers_is_the_plain_run": (
            "link1-messages",
        ),
        "test_rounds_run_with_it_and_a_memory_for_each_client": ("splitfed",),
    },
    "training/test_strengths.py": {
        "test_a_strength_is_the_constant_bit_for_bit": (
            "5.0-1-messages",
            "5.0-2-fused",
        ),
        "test_rounds_with_a_strength_are_those_with_the_constant": (
            "splitfed",
            "at once",
        ),
        "test_parties_of_an_agreement_have_the_value_that_is_written": ("4.0",),
    },
    "training/test_training.py": {
        "test_prediction_and_evaluation_are_those_of_the_whole_model": (
            "vanilla-nnx-fused",
        ),
        "test_an_optimizer_may_keep_the_parameters_themselves": ("2-fused",),
        "test_accumulated_micro_batches_equal_the_full_batch": ("u_shaped-fused",),
        "test_a_new_batch_size_trains_as_the_whole_would": ("messages",),
    },
    "training/test_unread.py": {
        "test_training_is_that_of_the_whole": (
            "recompute-1-messages",
            "recompute-2-fused",
        ),
        "test_costs_are_the_messages": ("False-1",),
    },
    "training/test_weighted_losses.py": {
        "test_a_penalty_that_takes_weights_is_that_of_the_whole_model": (
            "weight1-messages",
        ),
        "test_a_weight_of_2_is_a_record_twice": ("messages",),
        "test_a_record_of_weight_0_may_hold_anything": ("None-fused",),
        "test_of_micro_batches_each_gets_its_own_weights": ("messages",),
        "test_a_constant_divides_the_sum_over_examples": (
            "None-2-messages",
            "weight1-1-messages",
        ),
        "test_with_a_constant_what_else_is_in_a_batch_changes_nothing_of_a_record": (
            "2-messages",
        ),
        "test_rounds_of_one_client_after_the_other_are_its_steps": ("None-sizes0",),
        "test_of_clients_that_step_together_each_is_given_its_own_weights": (
            "6.0-sizes1",
        ),
    },
    "training/test_whole.py": {
        "test_split_is_whole_bit_for_bit_under_adam_with_dropout_and_batch_norm": (
            "nnx-threefry2x32",
        ),
    },
    "wire/test_wire_channel.py": {
        "test_a_peer_that_does_not_read_stops_the_sender": ("memory pair",),
        "test_who_closes_waits_until_what_it_sent_went_out_and_no_longer_though_it_reads_no_more": (
            "memory pair",
            "memory mtls",
        ),
    },
    "wire/test_wire_door.py": {
        "test_who_shows_no_certificate_in_time_is_hung_up_on": (
            "half a handshake",
            "a call",
        ),
    },
    "wire/test_wire_session.py": {
        "test_any_order_of_losses_repetitions_and_restarts_ends_as_the_undisturbed_run": (
            "one way",
        ),
    },
}

# Where most points are cheap, those that are not.
LEFT = {
    "experiments/test_tables.py": {
        "test_parameters_are_the_published_ones_to_the_unit": ("resnet-50",),
    },
    "privacy/test_defences_noise.py": {
        "test_a_record_is_clipped_in_one_norm_over_all_its_arrays": ("0.5-gaussian-2",),
    },
    "privacy/test_distance_correlation.py": {
        "test_the_unit_of_a_value_does_not_matter_however_small_or_large": (
            "1e-35-False",
        ),
    },
    "privacy/test_property_membership.py": {
        "test_what_does_not_fit_is_refused_by_its_name": (
            "change0-same records-property_inference",
        ),
    },
    "slicing/test_split.py": {
        "test_a_segment_has_the_parameters_it_reads_and_no_others": (
            "narrow cnn",
            "narrow transformer",
            "linen remat and jit divided",
            "linen cnn",
            "narrow linen cnn",
        ),
    },
    "training/test_compress.py": {
        "test_what_arrives_has_the_shape_of_what_was_sent_and_integers_are_untouched": (
            "quantize3",
            "quantize8",
        ),
    },
}


def left_out(test: str) -> bool:
    """Whether a test, by its id below `tests/`, is a point that `make test` leaves out."""
    file, _, rest = test.partition("::")
    name, _, point = rest.partition("[")
    point = point.removesuffix("]")
    kept = KEPT.get(file, {}).get(name)
    return (kept is not None and point not in kept) or point in LEFT.get(file, {}).get(
        name, ()
    )


def lost(tests: list[str]) -> list[str]:
    """Points of `KEPT` that are not among these tests, though others of their test are.

    Else who renames the one point that stays would leave a whole law to the slow part.
    """
    there = {*tests}
    return [
        f"{name}[{point}]"
        for name in sorted({test.partition("[")[0] for test in tests if "[" in test})
        for file, _, test in [name.partition("::")]
        for point in KEPT.get(file, {}).get(test, ())
        if f"{name}[{point}]" not in there
    ]
