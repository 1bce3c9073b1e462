"""Which class an operator belongs to: a table by its name, for what torch's own tags do not tell."""

from __future__ import annotations

from typing import Any

import torch

_NAMES = {
    "gemm": """mm addmm bmm baddbmm addbmm mv addmv dot vdot _int_mm _scaled_mm _scaled_mm_v2 _grouped_mm
        _scaled_grouped_mm _scaled_grouped_mm_v2 _weight_int8pack_mm _weight_int4pack_mm _weight_int4pack_mm_for_cpu
        _weight_int4pack_mm_with_scales_and_zeros _dyn_quant_matmul_4bit _mixed_dtypes_linear _trilinear
        _addmm_activation linear matmul mkldnn_linear _mkl_linear _linear_pointwise linear_backward matmul_backward
        mkldnn_linear_backward mkldnn_linear_backward_input mkldnn_linear_backward_weights _cdist_forward
        _cdist_backward _euclidean_dist linear_dynamic linear_relu_dynamic linear_dynamic_fp16
        linear_relu_dynamic_fp16 linear_relu""",
    "convolution": """convolution _convolution convolution_overrideable convolution_backward
        convolution_backward_overrideable mkldnn_convolution _conv_depthwise2d conv_depthwise3d conv_tbc
        _slow_conv2d_forward _slow_conv2d_backward slow_conv3d_forward slow_conv_dilated2d slow_conv_dilated3d
        slow_conv_transpose2d slow_conv_transpose3d cudnn_convolution cudnn_convolution_transpose
        _nnpack_spatial_convolution conv1d conv2d conv3d conv2d_relu conv1d_relu""",
    "attention": """scaled_dot_product_attention _scaled_dot_product_flash_attention _flash_attention_forward
        _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention
        _scaled_dot_product_cudnn_attention _scaled_dot_product_fused_attention_overrideable
        _efficient_attention_forward _flash_attention_backward _efficient_attention_backward
        _native_multi_head_attention _transformer_encoder_layer_fwd _triton_multi_head_attention
        _triton_scaled_dot_attention flex_attention""",
    "rnn": """lstm gru rnn_tanh rnn_relu mkldnn_rnn_layer _cudnn_rnn miopen_rnn _thnn_fused_lstm_cell
        _thnn_fused_gru_cell _thnn_fused_lstm_cell_backward_impl _thnn_differentiable_lstm_cell quantized_lstm
        quantized_gru""",
    "embedding": """embedding _embedding_bag _embedding_bag_forward_only embedding_renorm embedding_dense_backward
        _embedding_bag_dense_backward _embedding_bag_per_sample_weights_backward""",
    "normalisation": """native_layer_norm native_group_norm native_batch_norm _native_batch_norm_legit
        _native_batch_norm_legit_functional _native_batch_norm_legit_no_training _batch_norm_with_update
        _batch_norm_with_update_functional _batch_norm_no_update batch_norm cudnn_batch_norm miopen_batch_norm
        _fused_rms_norm native_norm renorm _weight_norm_interface batch_norm_stats batch_norm_elemt
        batch_norm_gather_stats batch_norm_gather_stats_with_counts batch_norm_update_stats
        batch_norm_backward_reduce batch_norm_backward_elemt""",
    "softmax": """_softmax softmax _log_softmax log_softmax _safe_softmax _masked_softmax _softmax_backward_data
        _log_softmax_backward_data logsumexp""",
    "reduction": """sum nansum mean prod amax amin aminmax _aminmax max min argmax argmin any all var var_mean std
        std_mean norm linalg_vector_norm count_nonzero median nanmedian trace dist equal allclose is_all_true
        _is_all_true _is_any_true nll_loss_forward nll_loss2d_forward nll_loss_backward nll_loss2d_backward mse_loss
        smooth_l1_loss huber_loss binary_cross_entropy multi_margin_loss multilabel_margin_loss_forward
        multilabel_margin_loss soft_margin_loss cosine_similarity histc bincount histogram segment_reduce
        _segment_reduce _amp_foreach_non_finite_check_and_unscale hash_tensor nanmean linalg__powsum
        max_unpool2d isin""",
    "scan": "cumsum cumprod cummax cummin _cummax_helper _cummin_helper logcumsumexp _logcumsumexp",
    "sort": """sort topk kthvalue mode msort _unique _unique2 unique_dim unique_consecutive unique_dim_consecutive
        searchsorted bucketize""",
    "random": """bernoulli uniform normal rand randn randint random randperm rand_like randn_like randint_like
        exponential cauchy geometric log_normal poisson binomial multinomial native_dropout _fused_dropout
        _sample_dirichlet _standard_gamma normal_functional rrelu_with_noise rrelu_with_noise_functional
        _philox_normal _philox_uniform _fill_mem_eff_dropout_mask""",
    "gather": """index _unsafe_index _unsafe_masked_index gather index_select masked_select take nonzero
        nonzero_static take_along_dim""",
    "scatter": """index_put _index_put_impl _unsafe_index_put _unsafe_masked_index_put_accumulate scatter scatter_add
        scatter_reduce index_add index_copy index_fill index_reduce masked_scatter masked_scatter_backward put
        slice_scatter select_scatter diagonal_scatter as_strided_scatter slice_backward select_backward
        diagonal_backward unfold_backward index_select_backward gather_backward""",
    "copy": """copy clone _to_copy cat stack _stack repeat repeat_interleave roll flip rot90 constant_pad_nd
        reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
        _copy_from _copy_from_and_resize _pin_memory pixel_shuffle pixel_unshuffle channel_shuffle im2col col2im
        view_copy _reshape_copy lift_fresh_copy detach_copy expand_copy permute_copy slice_copy select_copy t_copy
        transpose_copy unbind_copy unfold_copy split_copy split_with_sizes_copy squeeze_copy unsqueeze_copy
        alias_copy as_strided_copy diagonal_copy diag_embed block_diag _chunk_cat _lazy_clone _mkldnn_reshape
        _mkldnn_transpose to_mkldnn _pack_padded_sequence to_padded_tensor _transform_bias_rescale_qkv
        _jagged_to_padded_dense_forward _padded_dense_to_jagged_forward unsafe_split unsafe_split_with_sizes
        _conj_copy _neg_view_copy view_as_real_copy view_as_complex_copy resize_as affine_grid_generator
        _nested_tensor_from_mask _nested_from_padded _convert_weight_to_int4pack
        _convert_weight_to_int4pack_for_cpu mkldnn_reorder_conv2d_weight mkldnn_reorder_conv3d_weight
        _to_dense _to_sparse dequantize quantize_per_tensor quantize_per_channel quantize_per_tensor_dynamic int_repr
        _make_per_tensor_quantized_tensor _make_per_channel_quantized_tensor _coalesce""",
    "fill": """zeros ones full arange range eye linspace logspace fill zero zeros_like ones_like full_like new_zeros
        new_ones new_full scalar_tensor tril_indices triu_indices _efficientzerotensor hann_window hamming_window
        blackman_window bartlett_window kaiser_window fft_fftfreq fft_rfftfreq _new_zeros_with_same_feature_meta""",
    "elementwise": """tril triu glu complex polar masked_fill addr linalg_cross _prelu_kernel cdist_elementwise
        log_sigmoid_forward log_sigmoid floor_divide _masked_scale _add_relu hardswish gcd lcm
        _amp_update_scale _fused_adam _fused_adamw _fused_sgd _fused_adagrad fake_quantize_per_tensor_affine_cachemask
        fake_quantize_per_channel_affine_cachemask _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
        _fake_quantize_learnable_per_channel_affine _fake_quantize_learnable_per_tensor_affine
        _fused_moving_avg_obs_fq_helper binary_cross_entropy_with_logits fill_diagonal elu_backward hardshrink
        hardsigmoid hardtanh leaky_relu softplus softshrink threshold _compute_linear_combination
        _assert_async _functional_assert_async glu_jvp""",
    "pool": """max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
        adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d
        max_pool2d_with_indices max_pool3d_with_indices max_unpool3d fractional_max_pool2d fractional_max_pool3d
        mkldnn_max_pool2d mkldnn_max_pool3d mkldnn_adaptive_avg_pool2d quantized_max_pool1d quantized_max_pool2d
        quantized_max_pool3d""",
    "resample": """upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
        _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d
        upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
        _upsample_lanczos2d_aa grid_sampler_2d grid_sampler_3d _grid_sampler_2d_cpu_fallback""",
    "fft": "_fft_c2c _fft_c2r _fft_r2c",
}
_CLASS = {name: kind for kind, names in _NAMES.items() for name in names.split()}
_NO_KERNEL = """
    empty empty_like empty_strided empty_permuted new_empty new_empty_strided _empty_affine_quantized
    _empty_per_channel_affine_quantized empty_quantized detach lift lift_fresh alias set set_ resize resize_
    resize_as _resize_output _unsafe_view _reshape_alias view is_same_size is_set_to is_pinned is_coalesced _nnz
    dense_dim sparse_dim _dimI _dimV size stride storage_offset numel dim sym_size sym_stride sym_storage_offset
    sym_numel is_contiguous sym_is_contiguous is_strides_like_format is_non_overlapping_and_dense layout device
    _local_scalar_dense record_stream _fused_sdp_choice _use_cudnn_ctc_loss _use_miopen_ctc_loss
    _assert_tensor_metadata _print _assert_scalar _functional_assert_scalar sym_constrain_range
    sym_constrain_range_for_size _version _functional_sym_constrain_range
    _functional_sym_constrain_range_for_size _make_dep_token t squeeze unsqueeze transpose as_strided detach_
    q_scale q_zero_point qscheme q_per_channel_scales q_per_channel_zero_points q_per_channel_axis
    _has_same_storage_numel _coalesced _indices _values indices values _linalg_check_errors _jagged_to_padded
    _nested_get_values _nested_get_offsets _nested_get_lengths _nested_get_ragged_idx _nested_view_from_jagged
    _nested_tensor_size _nested_tensor_strides _nested_tensor_storage_offsets _cudnn_rnn_flatten_weight
    linear_prepack linear_unpack _make_dual _fw_primal wait_tensor from_file
"""
_NOTHING = frozenset(_NO_KERNEL.split())
"""Operators that launch nothing: they look, allocate, or give a name to what is there."""


def base_name(func: Any) -> str:
    """Return ``add`` for ``aten::add_.Tensor``."""
    name: str = func._schema.name.partition("::")[2]
    return (
        name[:-1] if name.endswith("_") and not name.endswith("__") else name.strip("_") if name[:2] == "__" else name
    )


def does_nothing(func: Any) -> bool:
    """Tell whether an operator launches no kernel: a view, or a question about a tensor."""
    if base_name(func) in _NOTHING or func.namespace == "profiler":
        return True
    returns, arguments = func._schema.returns, func._schema.arguments
    if any(a.alias_info is not None and a.alias_info.is_write for a in arguments):
        return False
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def kind_of(func: Any) -> str | None:
    """Return an operator's class; None where neither the table nor torch's tags know it."""
    name = base_name(func)
    if name.startswith("_foreach_"):
        return {"norm": "reduction", "copy": "copy", "zero": "fill", "clone": "copy"}.get(name[9:], "elementwise")
    for known in (
        name,
        name.removesuffix("_backward"),
        name.removesuffix("_for_cpu_backward"),
        name.removesuffix("_jvp"),
    ):
        if (kind := _CLASS.get(known)) is not None:
            return kind
    if torch.Tag.pointwise in func.tags or any(torch.Tag.pointwise in tags for tags in _tags_of_siblings(func)):
        return "elementwise"
    if name.removesuffix("_backward") != name or torch.Tag.nondeterministic_seeded in func.tags:
        forward = getattr(torch.ops.aten, name.removesuffix("_backward"), None)
        if forward is not None and any(torch.Tag.pointwise in getattr(forward, o).tags for o in forward.overloads()):
            return "elementwise"
    return None


def _tags_of_siblings(func: Any) -> list[Any]:
    """Return the tags of the other forms of an operator: in place, or into a given tensor."""
    name = base_name(func)
    packets = [getattr(torch.ops.aten, form, None) for form in (name, name + "_")] if func.namespace == "aten" else []
    return [getattr(packet, o).tags for packet in packets if packet is not None for o in packet.overloads()]
