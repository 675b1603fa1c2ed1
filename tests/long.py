"""What `make test` leaves to `make test-slow`: points of sweeps whose others stand for them daily.

A line names a test, with all its points, or one point of it.
"""

from __future__ import annotations

from pathlib import Path

# Of choices that do not depend on each other each value stays, and not all pairs of them; of
# algorithms of rounds those stay whose parts are the parts of the others as well.
POINTS = {
    "rounds/test_rounds.py": {
        "test_a_round_in_which_everybody_fails_changes_nothing": (
            "parallel",
            "splitfed 1",
            "large batch",
        ),
        "test_rounds_of_one_shape_are_compiled_once": (
            "parallel",
            "splitfed 1",
            "large batch",
        ),
        "test_the_memory_of_a_link_is_each_client_s_own_unless_all_is_carried": (
            "parallel",
            "splitfed 1",
            "large batch",
        ),
        "test_however_it_is_computed_an_algorithm_gives_the_same_numbers": (
            "parallel",
            "splitfed 1",
        ),
        "test_a_client_that_fails_counts_as_far_as_it_got_or_not_at_all": (
            "turns-discard",
            "splitfed 1-keep",
            "parallel, shared-discard",
        ),
    },
    "rounds/test_schedules.py": {
        "test_a_rate_set_between_rounds_is_that_of_the_next_round": (
            "splitfed own",
            "large batch",
        ),
        "test_a_schedule_goes_on_from_round_to_round": ("splitfed own", "large batch"),
    },
    "rounds/test_nonfinite_rounds.py": {
        "test_an_evaluation_of_a_round_refuses_class_numbers_out_of_range": (
            "splitfed 1",
            "large batch",
        ),
        "test_a_step_that_is_left_out_counts_for_nothing_in_the_losses_of_its_round": (
            "large batch",
        ),
        "test_rounds_skip_the_bad_steps_alone": ("large batch",),
    },
    "rounds/test_parallel.py": {
        "test_parallel_with_shared_bottoms_is_one_large_batch": (
            "vanilla",
            "extended_vanilla",
        ),
    },
    "rounds/test_secret_rounds.py": {
        "test_each_client_has_a_secret_of_its_own_that_rounds_leave_alone": (
            "alone",
            "fedavg",
            "large_batch_sgd",
        ),
        "test_two_evaluations_draw_different_noise_unless_they_are_given_one_key": (
            "alone",
            "fedavg",
            "large_batch_sgd",
        ),
    },
    "rounds/test_turns.py": {
        "test_turns_with_hand_off_are_the_whole_model_on_the_same_batches": (
            "vanilla-cnn-nnx-fast",
            "extended_vanilla-cnn-linen-xla",
        ),
    },
    "rounds/test_averages.py": {
        "test_no_number_depends_on_the_order_in_which_clients_are_listed": ("fresh-1",),
    },
    "training/test_weighted_losses.py": {
        "test_rounds_of_one_client_after_the_other_are_its_steps": (
            "None-sizes1",
            "6.0-sizes0",
        ),
        "test_of_clients_that_step_together_each_is_given_its_own_weights": (
            "None-sizes1",
            "6.0-sizes0",
        ),
        "test_a_constant_divides_the_sum_over_examples": (
            "None-1-messages",
            "None-2-fused",
            "weight1-1-fused",
            "weight1-2-messages",
        ),
        "test_a_penalty_that_takes_weights_is_that_of_the_whole_model": (
            "None-messages",
            "weight1-fused",
        ),
        "test_a_record_of_weight_0_may_hold_anything": ("None-messages", "4.0-fused"),
        "test_with_a_constant_what_else_is_in_a_batch_changes_nothing_of_a_record": (
            "1-messages",
            "2-fused",
        ),
        "test_one_number_of_weighted_examples_stands_for_their_sum": (
            "None-2",
            "weight1-1",
        ),
    },
    "training/test_strengths.py": {
        "test_rounds_with_a_strength_are_those_with_the_constant": (
            "alone",
            "splitfed 2",
            "parallel",
        ),
        "test_a_strength_is_the_constant_bit_for_bit": (
            "0.25-1-messages",
            "0.25-2-fused",
            "5.0-1-fused",
            "5.0-2-messages",
        ),
    },
    "training/test_sparse_links.py": {
        "test_rounds_run_with_it_and_a_memory_for_each_client": ("alone", "parallel"),
        "test_bytes_are_as_costed_and_k_of_all_numbers_is_the_plain_run": (
            "link0-messages",
            "link1-fused",
            "link2-messages",
            "link3-fused",
        ),
    },
    "training/test_equivalence.py": {
        "test_split_training_is_whole_training": (
            "vanilla-mlp-linen-fused-recompute",
            "u_shaped-transformer-nnx-fused-residuals",
            "vertical-residual-linen-fused-residuals",
            "extended_vanilla-cnn-nnx-messages-recompute",
            "multitask-mlp-linen-messages-recompute",
            "multihop-transformer-nnx-messages-residuals",
        ),
    },
    "training/test_penalties.py": {
        "test_a_value_that_is_read_twice_gets_both_cotangents": (
            "node-residuals-messages",
            "node-recompute-fused",
            "loss-residuals-fused",
            "loss-recompute-messages",
            "penalty-residuals-messages",
            "penalty-recompute-fused",
        ),
    },
    "training/test_record.py": {
        "test_a_recorded_step_leaves_the_bits_of_the_plain_one": (
            "fused-False-2",
            "fused-True-1",
            "messages-False-1",
            "messages-True-2",
        ),
    },
    "training/test_nonfinite.py": {
        "test_a_class_number_out_of_range_is_refused_in_a_step_and_in_an_evaluation": (
            "1-3-messages",
            "1--1-fused",
            "2-3-fused",
            "2--1-messages",
        ),
    },
    "training/test_loss_scale.py": {
        "test_what_underflows_in_float16_trains_with_a_scale_as_in_float32": (
            "268435456.0-messages",
            "scale1-fused",
        ),
        "test_a_power_of_two_changes_no_bit_in_float32": (
            "32768.0-1-messages",
            "scale1-1-fused",
        ),
        "test_it_is_the_whole_models_with_a_scale_written_by_hand": (
            "residuals-messages",
            "recompute-fused",
        ),
    },
    "training/test_training.py": {
        "test_every_function_is_traced_once_over_100_steps_and_again_for_a_new_batch_size": (
            "residuals-messages",
            "recompute-fused",
        ),
        "test_accumulated_micro_batches_equal_the_full_batch": (
            "vanilla-messages",
            "extended_vanilla-fused",
        ),
    },
    "training/test_secret.py": {
        "test_a_receiver_takes_public_noise_off_and_secret_noise_it_cannot": (
            "False-messages",
            "True-fused",
        ),
    },
    "training/test_parties.py": {
        "test_a_party_reads_only_its_own_memory_and_what_is_addressed_to_it": (
            "vanilla-linen",
            "u_shaped-nnx",
            "vertical-linen",
            "extended_vanilla-nnx",
            "multitask-linen",
            "multihop-nnx",
        ),
        "test_every_parameter_belongs_to_exactly_one_party": (
            "vanilla-linen",
            "u_shaped-nnx",
            "vertical-linen",
            "extended_vanilla-nnx",
            "multitask-linen",
            "multihop-nnx",
        ),
    },
    "party/test_party_secret.py": {
        "test_a_party_that_was_killed_repeats_its_own_noise": ("deaths2",),
        "test_parties_draw_what_one_process_draws_with_their_secrets": ("1-None",),
    },
    "privacy/test_distance_correlation.py": {
        "test_the_unit_of_a_value_does_not_matter_however_small_or_large": (
            "1e-35-True",
            "1e-25-False",
            "1e-12-True",
            "1000000000000.0-False",
            "1e+25-True",
            "1e+37-False",
        ),
        "test_its_gradient_is_finite_at_equal_records": (
            "0.5-True",
            "1.0-False",
            "2.0-True",
        ),
        "test_its_gradient_is_that_of_finite_differences": (
            "0.8-False",
            "1.0-True",
            "2.0-False",
        ),
        "test_of_independent_values_it_is_large_and_corrected_it_is_nothing": (
            "128-0.85",
        ),
    },
    "privacy/test_private_training.py": {
        "test_each_record_is_clipped_as_by_hand_in_both_parts": (
            "0.05-messages",
            "0.4-fused",
            "100.0-messages",
        ),
    },
    "privacy/test_smallest_batch.py": {
        "test_in_rounds_the_batch_of_a_client_is_counted": ("alone", "splitfed"),
    },
    "privacy/test_defences_everywhere.py": {
        "test_over_the_network_it_is_the_run_in_one_process": ("laplace", "isotropic"),
    },
    "privacy/test_bottleneck.py": {
        "test_in_rounds_it_runs_and_is_not_the_plain_round": ("splitfed",),
    },
    "privacy/test_views.py": {
        "test_a_party_holds_gets_and_sends_what_is_written_by_hand": (
            "vanilla-False",
            "u_shaped-True",
            "vertical-False",
            "extended_vanilla-True",
            "multitask-False",
            "multihop-True",
        ),
    },
    "training/test_export.py": {
        "test_exported_segments_predict_what_the_trainer_predicts_at_another_batch_size": (
            "vanilla-transformer",
            "multitask-transformer",
        ),
    },
    "segments/test_flags.py": {
        "test_every_constructor_that_takes_a_model_takes_its_flags": (
            "inference flag",
        ),
    },
    "party/test_party_numbers.py": {
        "test_parties_clip_by_the_norm_of_all": ("1-chain", "2-pair"),
    },
}
# Whole tests, and what stays of their law.
WHOLE = {
    # The faults are daily survived with the kept replies; that without these a run ends is
    # the session's, of which every order of losses stays.
    "party/test_party_chaos.py::test_the_same_faults_without_the_kept_replies_end_the_run",
    "party/test_party_memory.py::test_connections_that_are_cut_cost_time_alone",
    # Of a client that is passed over, that it is until it comes back.
    "party/test_party_turns.py::test_the_lead_remembers_who_is_passed_over",
    "party/test_vigil.py::test_a_client_that_dies_in_each_turn_and_comes_back_is_passed_over_and_all_get_on",
    "party/test_vigil.py::test_an_honest_client_is_not_lost_where_another_hands_nothing_over",
    # Of the vigil, that a long step is waited for and that who does nothing is passed over.
    "party/test_vigil.py::test_a_process_that_says_nothing_is_away_though_its_connection_is_there",
    "party/test_vigil.py::test_a_client_that_computes_is_not_passed_over",
    "party/test_vigil.py::test_who_stands_at_a_step_is_named_with_the_step_and_is_not_waited_for",
    # Of strangers at the door, floods of them, silent ones and wrong certificates.
    "party/test_adversary_doors.py::test_a_connection_is_of_one_process",
    "party/test_adversary_doors.py::test_a_member_that_opens_streams_over_and_over_takes_no_place_of_another",
    "party/test_adversary_doors.py::test_of_many_connections_without_a_hello_the_newest_counts_and_no_other_party_feels_it",
    "party/test_adversary_doors.py::test_hellos_over_and_over_cost_others_nothing",
    "party/test_adversary_doors.py::test_saves_for_which_there_are_no_files_end_no_run",
    # Of a lead that lies, about the number of records.
    "party/test_adversary_claims.py::test_a_lead_cannot_have_checkpoints_deleted_and_all_go_on_when_it_is_honest",
    "party/test_adversary_claims.py::test_a_lead_that_says_nothing_of_what_all_have_does_not_fill_a_disk",
    # Of checkpoints on a bad disk, the damaged one and the store that waits for files.
    "party/test_party.py::test_a_full_disk_costs_the_newest_checkpoint_at_most",
    "party/test_party.py::test_a_party_that_does_not_come_is_named_when_patience_ends",
    "party/test_party_numbers.py::test_parties_clip_as_the_whole_model_does_in_double_precision",
    "party/test_papers.py::test_a_run_outlives_its_certificates_while_its_connections_are_cut",
    "party/test_party_durable.py::test_who_is_asked_to_stop_while_it_waits_ends_at_once_and_goes_on_later",
    "party/test_party_durable.py::test_who_did_not_learn_that_all_is_done_learns_it_from_the_lead_when_both_are_started_again",
    # Of the experiments, that they are imported and their tables.
    "experiments/test_privacy_report.py::test_a_report_is_written_in_all_forms_and_read_back",
    "experiments/test_demo.py::test_demo_trains_whole_split_and_by_messages_to_the_same_parameters",
    "experiments/test_experiments_rounds.py::test_rounds_are_compared_on_one_harness",
    "experiments/test_experiments_rounds.py::test_figure_3_has_rows_verdicts_and_a_picture",
    "experiments/test_experiments_rounds.py::test_bytes_of_drawn_rounds_are_those_of_the_formula",
    # Of eight devices, that they give the numbers of one.
    "rounds/test_devices.py::test_each_device_does_its_part_of_the_work",
    "rounds/test_devices.py::test_eight_devices_give_the_numbers_of_one[in a large batch]",
    "rounds/test_devices.py::test_a_mesh_of_one_device_changes_nothing",
    # Of rounds, those with shared bottoms, one client's own steps and a batch of all.
    "rounds/test_parallel.py::test_parallel_with_own_bottoms_follows_the_gradient_of_the_mean_over_all_examples",
    "rounds/test_averages.py::test_fedavg_with_one_client_is_local_training",
    "rounds/test_nonfinite_rounds.py::test_a_client_that_is_not_asked_may_hold_anything",
    # Of schedules and records of rounds, those of each algorithm.
    "rounds/test_schedules.py::test_fresh_moments_with_a_schedule_are_local_adam_with_a_common_count",
    "rounds/test_schedules.py::test_each_client_of_its_own_and_each_run_of_a_sweep_may_have_a_rate_of_its_own",
    "rounds/test_recorded_rounds.py::test_several_rounds_are_recorded_along_an_axis_of_them",
    # In float32 the same stays.
    "jaxprs/test_convolutions.py::test_they_are_in_double_precision_too",
    "rounds/test_turns.py::test_turns_hold_in_double_precision_with_adam",
    "training/test_equivalence.py::test_adam_in_float32_stays_as_close_as_measured",
    "training/test_optimizers.py::test_clipping_by_the_global_norm_is_that_of_the_whole_model_in_double_precision",
    "rounds/test_rounds.py::test_a_loss_may_be_one_number_where_every_batch_that_is_taken_is_full",
    # Of costs, that messages are the predicted ones, plain and of optimizers.
    "training/test_nonfinite.py::test_messages_of_a_skipping_trainer_are_recorded_and_costed",
    "costing/test_plan.py::test_scores_by_name_by_point_by_function_and_as_findings_are_one_plan",
    "training/test_weighted_losses.py::test_parties_give_weights_to_losses_and_divide_by_constants_as_messages_does",
    "slicing/test_loading.py::test_weights_go_into_another_topology_of_the_model_and_back_without_their_optimizer",
    # That importing jsplit imports no extra stays with the house.
    "topology/test_draw.py::test_importing_leaves_matplotlib_alone_and_drawing_leaves_pyplot_alone",
    # Of attacks, a form in which each finds what is there and one in which it finds nothing.
    "privacy/test_sdar.py::test_each_part_goes_down_its_own_cost_by_finite_differences",
    "privacy/test_unsplit_inversion.py::test_behind_a_relu_the_brightness_of_first_guesses_decides_what_is_found",
    "privacy/test_unsplit_inversion.py::test_pictures_behind_one_convolution_are_found_from_its_form",
    "privacy/test_property_membership.py::test_a_property_that_nobody_asked_for_is_read_off_the_cut",
    "privacy/test_decoder_attack.py::test_of_several_arrays_all_are_read",
    "privacy/test_model_completion.py::test_a_bottom_of_ones_own_learns_with_the_head",
    "privacy/test_token_recovery.py::test_a_hidden_layer_reads_what_no_linear_inverter_can",
    "privacy/test_model_completion.py::test_records_without_label_teach_as_well",
    "privacy/test_model_completion.py::test_two_classes_are_scored_by_auc",
    "privacy/test_token_recovery.py::test_fillers_do_not_count",
    "privacy/test_intervals.py::test_batches_hold_what_a_batch_gives_on_average",
    "privacy/test_attacks_on_labels.py::test_clusters_keep_their_names_from_step_to_step",
    "privacy/test_nopeek.py::test_over_the_network_it_is_the_run_in_one_process",
    "privacy/test_private_training.py::test_an_outsider_refutes_dp_sgd_that_does_less_than_it_says",
    "privacy/test_reconstruction.py::test_small_images_have_the_largest_odd_window_that_fits",
}
# Of points and tests that are dear, one below the other in a file of their own.
DEAR = [
    line
    for line in Path(__file__).with_name("dear.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
LONG = {
    *WHOLE,
    *DEAR,
    *(
        f"{file}::{test}[{point}]"
        for file, tests in POINTS.items()
        for test, points in tests.items()
        for point in points
    ),
    "rounds/test_devices.py::test_two_processes_give_the_numbers_of_one",
    "rounds/test_devices.py::test_eight_devices_give_the_numbers_of_one[at one party]",
    "experiments/test_tables.py::test_a_residual_network_halves_its_images_where_the_paper_does",
    "party/test_party_memory.py::test_connections_that_are_cut_cost_time_alone[1]",
    "party/test_party_chaos.py::test_faults_and_deaths_of_every_party_leave_no_trace[vertical-None]",
    "jaxprs/test_convolutions.py::test_in_a_whole_step_nothing_slow_is_left_and_numbers_are_the_same[1]",
    "jaxprs/test_convolutions.py::test_in_a_whole_step_nothing_slow_is_left_and_numbers_are_the_same[3]",
    "rounds/test_turns.py::test_turns_of_ragged_clients_train_on_every_record_and_on_nothing_else[xla]",
    "slicing/test_cut_points.py::test_every_cut_point_splits_and_joins_to_the_whole[resnet]",
    "training/test_optimizers.py::test_clipping_by_the_global_norm_is_that_of_the_whole_model_in_double_precision[multihop]",
    "rounds/test_parallel.py::test_clients_that_step_together_are_computed_alike_in_either_kernels[u_shaped-cnn-own]",
    "training/test_training.py::test_mixed_precision_is_that_of_the_whole_model[nnx-fused]",
    "costing/test_cost.py::test_the_messages_of_a_run_are_the_predicted_ones_exactly[multihop-plain]",
    "rounds/test_one_client.py::test_the_whole_model_of_a_client_predicts_what_the_algorithm_does[shared]",
    "training/test_whole.py::test_the_whole_model_is_trained_by_messages_and_costed_as_its_split_is",
    *(
        "party/test_party_numbers.py::test_parties_clip_as_the_whole_model_does_in_double_"
        f"precision[{name}]"
        for name in ("vanilla", "vertical", "extended_vanilla", "multitask", "multihop")
    ),
    "training/test_optimizers.py::test_clipping_by_the_global_norm_is_that_of_the_whole_model[multitask]",
    "training/test_optimizers.py::test_clipping_by_the_global_norm_is_that_of_the_whole_model[vertical]",
    "training/test_optimizers.py::test_clipping_by_the_global_norm_is_that_of_the_whole_model[extended_vanilla]",
    *(
        "training/test_optimizers.py::test_clipping_by_the_global_norm_is_that_of_the_whole_"
        f"model_in_double_precision[{name}]"
        for name in ("vanilla", "vertical", "extended_vanilla", "multitask")
    ),
    "training/test_optimizers.py::test_what_the_optimizers_exchange_is_costed[2]",
    "training/test_optimizers.py::test_optimizers_that_need_the_loss_get_that_of_the_whole_model[momo]",
    "training/test_optimizers.py::test_optimizers_that_need_the_loss_get_that_of_the_whole_model[polyak]",
    "training/test_whole.py::test_a_raw_key_is_the_typed_one_that_its_words_are_of",
    "training/test_whole.py::test_keys_of_another_implementation_are_saved_sent_exported_and_taken_to_rounds",
    "training/test_whole.py::test_split_is_whole_bit_for_bit_under_adam_with_dropout_and_batch_norm[linen-rbg]",
    "training/test_whole.py::test_split_is_whole_bit_for_bit_under_adam_with_dropout_and_batch_norm[nnx-unsafe_rbg]",
    "training/test_whole.py::test_a_changed_default_implementation_is_the_one_of_a_seed",
    "training/test_whole.py::test_a_segment_of_the_whole_model_draws_other_masks[linen]",
    "training/test_unread.py::test_costs_are_the_messages[True-2]",
    "training/test_unread.py::test_costs_are_the_messages[False-2]",
    "slicing/test_loading.py::test_weights_go_into_another_topology_of_the_model_and_back_without_their_optimizer[linen]",
    "slicing/test_loading.py::test_every_client_starts_from_the_weights_that_are_loaded",
    "segments/test_flags.py::test_every_constructor_that_takes_a_model_takes_its_flags[linen]",
    "rounds/test_nonfinite_rounds.py::test_splitfed_clips_each_client_s_step_by_its_own_global_norm",
    "experiments/test_sweep.py::test_seeds_rates_and_cuts_are_swept_in_processes_of_their_own",
    *(
        "rounds/test_one_client.py::test_the_whole_model_of_a_client_predicts_what_the_"
        f"algorithm_does[{name}]"
        for name in ("alone", "turns, own", "turns", "parallel", "fedavg", "statistics")
    ),
    *(
        "training/test_loss_scale.py::test_a_power_of_two_changes_no_bit_in_float32"
        f"[{scale}-2-{make}]"
        for scale in ("scale1", "32768.0")
        for make in ("fused", "messages")
    ),
    *(
        "rounds/test_nonfinite_rounds.py::test_records_that_fill_up_ragged_clients_may_hold_"
        f"anything[{name}]"
        for name in ("large batch", "parallel, shared")
    ),
    # Of chains of clients and of merged ones another stays.
    "training/test_equivalence.py::test_adam_in_float32_stays_as_close_as_measured[multihop]",
    "training/test_equivalence.py::test_adam_in_float32_stays_as_close_as_measured[extended_vanilla]",
    "training/test_export.py::test_exported_segments_predict_what_the_trainer_predicts_at_another_batch_size[extended_vanilla-cnn]",
    "training/test_export.py::test_exported_segments_predict_what_the_trainer_predicts_at_another_batch_size[multihop-cnn]",
    "training/test_training.py::test_accumulated_micro_batches_equal_the_full_batch[multihop-fused]",
    "jaxprs/test_halves.py::test_what_is_sent_does_not_wait_for_what_is_learned[multitask]",
    "jaxprs/test_halves.py::test_what_is_sent_does_not_wait_for_what_is_learned[extended_vanilla]",
    "costing/test_cost.py::test_the_messages_of_a_run_are_the_predicted_ones_exactly[multitask-cast]",
    "rounds/test_parallel.py::test_parallel_with_shared_bottoms_is_one_large_batch[multihop]",
    "rounds/test_turns.py::test_turns_with_hand_off_are_the_whole_model_on_the_same_batches[multihop-cnn-linen-fast]",
    *(
        "party/test_party_numbers.py::test_parties_that_clip_by_the_norm_of_all_train_as_"
        f"the_whole_model_does[{name}]"
        for name in ("vanilla", "extended_vanilla", "multihop")
    ),
    # In every configuration one of the interpreters stays, in vanilla both.
    *(
        f"training/test_losses.py::test_an_example_of_weight_zero_is_not_there[{name}]"
        for name in (
            "multihop-messages",
            "multitask-messages",
            "vertical-fused",
            "u_shaped-messages",
            "extended_vanilla-fused",
        )
    ),
    # Of choices that do not depend on each other, each stays, and not all pairs of them.
    *(
        f"training/test_nonfinite.py::test_a_skipped_step_leaves_all_but_its_number_as_it_was[{name}]"
        for name in ("2-fused", "1-messages")
    ),
    *(
        f"training/test_left_out.py::test_what_is_left_out_may_hold_anything[{name}]"
        for name in ("2-fused", "1-messages")
    ),
    *(
        f"training/test_training.py::test_an_optimizer_may_keep_the_parameters_themselves[{name}]"
        for name in ("1-fused", "2-messages")
    ),
    *(
        "training/test_penalties.py::test_a_regulariser_sown_inside_a_client_s_segment_acts"
        f"[{name}]"
        for name in ("recompute-fused", "residuals-messages")
    ),
    *(
        f"training/test_unread.py::test_training_is_that_of_the_whole[{name}]"
        for name in (
            "residuals-1-messages",
            "residuals-2-fused",
            "recompute-2-messages",
            "recompute-1-fused",
        )
    ),
    *(
        f"jaxprs/test_halves.py::test_both_programs_together_are_the_turn[{name}]"
        for name in (
            "vanilla-cnn-recompute",
            "u_shaped-cnn-residuals",
            "multitask-residual-residuals",
        )
    ),
    *(
        "costing/test_cost.py::test_what_a_client_keeps_between_its_turns_is_what_was_"
        f"predicted[{name}]"
        for name in (
            "transformer-recompute",
            "residual-residuals",
            "cnn-recompute",
            "mlp-residuals",
        )
    ),
    *(
        "rounds/test_nonfinite_rounds.py::test_a_step_whose_losses_are_finite_is_refused_"
        f"for_what_it_keeps[{name}]"
        for name in (
            "last but one-parallel",
            "last but one-turns",
            "last-splitfed 1",
            "last-large batch",
        )
    ),
    # Algorithms whose parts are those of others: what one driver does for all.
    "rounds/test_rounds.py::test_however_it_is_computed_an_algorithm_gives_the_same_numbers[alone]",
    "rounds/test_nonfinite_rounds.py::test_a_round_with_a_step_that_is_not_finite_is_refused_with_its_number[parallel]",
    *(
        f"rounds/test_schedules.py::{test}[{name}]"
        for test in (
            "test_a_rate_set_between_rounds_is_that_of_the_next_round",
            "test_a_schedule_goes_on_from_round_to_round",
        )
        for name in (
            "splitfed 1",
            "splitfed 2",
            "splitfed averaged",
            "parallel, shared",
            "turns, own bottoms",
        )
    ),
    # The way from one client to the next has its own tests; both kernels and double
    # precision stay, at another point each.
    "rounds/test_turns.py::test_turns_hold_in_double_precision_with_adam[peer]",
    "rounds/test_averages.py::test_fedavg_with_one_client_is_local_training[xla]",
    "rounds/test_averages.py::test_no_number_depends_on_the_order_in_which_clients_are_listed[fresh-2]",
    "party/test_party_turns.py::test_clients_in_turns_train_as_the_whole_does_on_the_same_batches[vanilla-mlp-peer-listens0-1]",
    # Mixed precision of a recurrent model in nnx and of a convolving one in linen stay.
    *(
        f"slicing/test_split.py::test_split_then_join_is_the_whole_model[narrow {name}]"
        for name in ("transformer", "cnn", "linen rnn")
    ),
    # Of privacy: each defence stays in one algorithm of rounds and in one interpreter, a
    # report in two configurations, and what simulates or fits for long is left out.
    "privacy/test_reconstruction.py::test_images_are_compared_alike_in_blocks",
    "privacy/test_attacks_on_labels.py::test_steps_clustered_together_see_through_noise_that_hides_each_of_them",
    "privacy/test_decoder_attack.py::test_a_picture_of_channels_is_decoded_by_convolutions",
    "privacy/test_measures_as_metrics.py::test_each_is_a_metric_of_a_topology",
    "privacy/test_private_training.py::test_in_rounds_it_clips_and_each_client_draws_its_own[alone]",
    "privacy/test_private_training.py::test_in_rounds_it_clips_and_each_client_draws_its_own[take_turns]",
    "privacy/test_private_training.py::test_in_rounds_it_clips_and_each_client_draws_its_own[parallel]",
    "privacy/test_views_soundness.py::test_a_chain_that_can_be_undone_is_found_unless_it_mixes_twice",
    "privacy/test_property_membership.py::test_a_bottom_that_keeps_its_records_as_parameters_knows_members",
    "privacy/test_defences_everywhere.py::test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not[parallel-max_norm]",
    "privacy/test_defences_everywhere.py::test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not[parallel-marvell]",
    "privacy/test_defences_everywhere.py::test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not[alone-marvell]",
    "privacy/test_defences_everywhere.py::test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not[parallel-isotropic]",
    "privacy/test_defences_everywhere.py::test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not[alone-max_norm]",
    "privacy/test_defences_everywhere.py::test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not[alone-gaussian]",
    "privacy/test_defences_everywhere.py::test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not[splitfed-max_norm]",
    "privacy/test_defences_everywhere.py::test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not[alone-laplace]",
    "privacy/test_defences_everywhere.py::test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not[splitfed-marvell]",
    "privacy/test_defences_everywhere.py::test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not[splitfed-laplace]",
    "privacy/test_defences_everywhere.py::test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not[splitfed-gaussian]",
    "privacy/test_defences_everywhere.py::test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not[take_turns-isotropic]",
    "privacy/test_defences_everywhere.py::test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not[alone-isotropic]",
    "privacy/test_defences_everywhere.py::test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not[take_turns-gaussian]",
    "privacy/test_defences_everywhere.py::test_in_rounds_a_strength_of_0_is_the_plain_round_and_more_is_not[parallel-laplace]",
    "privacy/test_probes.py::test_the_interval_of_r2_holds_the_closed_form_95_times_of_100",
    "privacy/test_private_training.py::test_noise_has_the_stated_deviation_whatever_the_gradient_and_is_secret[fused]",
    "privacy/test_report.py::test_public_records_are_asked_of_the_trained_model_through_its_link",
    "privacy/test_defences_noise.py::test_marvell_is_unbiased_has_the_power_it_states_and_more_along_the_difference",
    "privacy/test_report.py::test_bytes_are_those_of_the_messages_with_links",
    "privacy/test_report.py::test_every_cut_and_party_with_a_threat_is_attacked[multitask]",
    "privacy/test_report.py::test_every_cut_and_party_with_a_threat_is_attacked[extended_vanilla]",
    "privacy/test_report.py::test_every_cut_and_party_with_a_threat_is_attacked[multihop]",
    "privacy/test_report.py::test_every_cut_and_party_with_a_threat_is_attacked[vertical]",
    "privacy/test_nopeek.py::test_in_rounds_it_is_computed_of_each_client_and_at_0_is_the_plain_round[parallel]",
    "privacy/test_nopeek.py::test_in_rounds_it_is_computed_of_each_client_and_at_0_is_the_plain_round[alone]",
    "privacy/test_nopeek.py::test_in_rounds_it_is_computed_of_each_client_and_at_0_is_the_plain_round[take_turns]",
    "privacy/test_nopeek.py::test_it_lowers_the_correlation_and_at_0_it_is_the_plain_run[fused]",
    "privacy/test_defences_everywhere.py::test_a_strength_of_0_is_the_plain_run_bit_for_bit_and_one_program_is_all[max_norm-messages]",
    "privacy/test_defences_everywhere.py::test_a_strength_of_0_is_the_plain_run_bit_for_bit_and_one_program_is_all[gaussian-messages]",
    "privacy/test_defences_everywhere.py::test_a_strength_of_0_is_the_plain_run_bit_for_bit_and_one_program_is_all[isotropic-messages]",
    "privacy/test_defences_everywhere.py::test_a_strength_of_0_is_the_plain_run_bit_for_bit_and_one_program_is_all[laplace-messages]",
    "privacy/test_bottleneck.py::test_in_rounds_it_runs_and_is_not_the_plain_round[alone]",
    # One death in a chain stays (a fault of every party), a run on eight devices one round
    # after the other, and of carried masks and scanned layers a point in float32.
    "party/test_party_chaos.py::test_processes_that_are_killed_or_asked_to_stop_go_on_when_started_again",
    "rounds/test_devices.py::test_eight_devices_give_the_numbers_of_one[in one program]",
    "training/test_carried.py::test_the_same_in_double_precision",
    "training/test_carried.py::test_split_training_with_a_carried_mask_is_whole_training[multihop-way9]",
    "training/test_scanned.py::test_the_work_of_both_parts_is_that_of_the_whole",
    "training/test_scanned.py::test_split_between_scanned_layers_is_whole_training[u_shaped-linen-way15]",
    "slicing/test_published.py::"
    "test_a_step_of_a_published_model_moves_it_by_its_own_gradient[BERT of HF]",
    "privacy/test_report.py::test_an_attack_with_few_steps_or_that_still_gains_is_not_said_to_have_converged",
    "privacy/test_views_soundness.py::test_no_more_entries_are_claimed_than_the_result_moves_with",
    "rounds/test_averages.py::test_statistics_of_batchnorm_are_averaged_or_each_client_s_own[averaged]",
    "rounds/test_tied_rounds.py::test_in_parallel_what_own_tied_weights_move_adds_up_to_what_a_shared_one_does",
    # Models in one kind of Flax stay, of published ones the smallest of each shape, and over a
    # network what no law of one process and of another run over it says together.
    *(
        f"slicing/test_stacks.py::test_segments_compute_what_the_whole_model_does[{name}]"
        for name in ("linen", "function")
    ),
    "slicing/test_stacks.py::test_weights_move_between_models_that_are_cut_elsewhere",
    *(
        "slicing/test_published.py::"
        f"test_a_published_model_is_cut_as_it_is_and_equals_its_own_call[{name}]"
        for name in ("T5X", "sst2", "lm1b", "ViT", "VAE")
    ),
    "slicing/test_other_sizes.py::"
    "test_a_split_trains_and_predicts_as_the_whole_at_every_length[messages]",
    "party/test_party_numbers.py::"
    "test_parties_that_clip_by_the_norm_of_all_train_as_the_whole_model_does[vertical]",
    "party/test_party_numbers.py::test_entries_of_records_count_over_a_network_as_in_one_process",
    "party/test_published_party.py::"
    "test_a_published_model_trains_over_a_network_as_in_one_process"
    "[LoRA with frozen base-function]",
    # Adapters of the small language model of `test_llama` are trained daily.
    "experiments/test_llm.py::test_adapters_between_clinic_and_server_learn_as_plain_optax[fused]",
    "privacy/test_bottleneck.py::test_a_learned_deviation_has_the_gradient_of_finite_differences[messages]",
    "privacy/test_bottleneck.py::test_in_rounds_it_runs_and_is_not_the_plain_round[take_turns]",
    "privacy/test_audit.py::"
    "test_what_a_server_decodes_refutes_laplace_noise_that_is_less_than_it_says",
    # That a hijack moves a client stays, and of masks one point and their cost.
    "privacy/test_fsha.py::test_a_client_of_a_split_cannot_tell_that_its_server_is_a_discriminator",
    "training/test_carried.py::"
    "test_split_training_with_a_carried_mask_is_whole_training[vanilla-way3]",
    "training/test_entry_weights.py::test_in_64_bits_it_is_that_to_1e9",
}
