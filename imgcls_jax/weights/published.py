"""Where torchvision's and OpenCLIP's weights lie, for the networks of models/: facts of torchvision 0.29 and
OpenCLIP 3.3.
"""

from __future__ import annotations

from typing import NamedTuple

TORCHVISION_FOLDER = "https://download.pytorch.org/models/"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of all that are listed here

# Name; file, which ends with the first digits of its SHA-256; short side and crop in pixels; interpolation.
_TORCHVISION = """
AlexNet_Weights.IMAGENET1K_V1 alexnet-owt-7be5be79 256 224 bilinear
DenseNet121_Weights.IMAGENET1K_V1 densenet121-a639ec97 256 224 bilinear
DenseNet161_Weights.IMAGENET1K_V1 densenet161-8d451a50 256 224 bilinear
DenseNet169_Weights.IMAGENET1K_V1 densenet169-b2777c0a 256 224 bilinear
DenseNet201_Weights.IMAGENET1K_V1 densenet201-c1103571 256 224 bilinear
EfficientNet_B0_Weights.IMAGENET1K_V1 efficientnet_b0_rwightman-7f5810bc 256 224 bicubic
EfficientNet_B1_Weights.IMAGENET1K_V1 efficientnet_b1_rwightman-bac287d4 256 240 bicubic
EfficientNet_B1_Weights.IMAGENET1K_V2 efficientnet_b1-c27df63c 255 240 bilinear
EfficientNet_B2_Weights.IMAGENET1K_V1 efficientnet_b2_rwightman-c35c1473 288 288 bicubic
EfficientNet_B3_Weights.IMAGENET1K_V1 efficientnet_b3_rwightman-b3899882 320 300 bicubic
EfficientNet_B4_Weights.IMAGENET1K_V1 efficientnet_b4_rwightman-23ab8bcd 384 380 bicubic
EfficientNet_B5_Weights.IMAGENET1K_V1 efficientnet_b5_lukemelas-1a07897c 456 456 bicubic
EfficientNet_B6_Weights.IMAGENET1K_V1 efficientnet_b6_lukemelas-24a108a5 528 528 bicubic
EfficientNet_B7_Weights.IMAGENET1K_V1 efficientnet_b7_lukemelas-c5b4e57e 600 600 bicubic
GoogLeNet_Weights.IMAGENET1K_V1 googlenet-1378be20 256 224 bilinear
Inception_V3_Weights.IMAGENET1K_V1 inception_v3_google-0cc3c7bd 342 299 bilinear
MobileNet_V2_Weights.IMAGENET1K_V1 mobilenet_v2-b0353104 256 224 bilinear
MobileNet_V2_Weights.IMAGENET1K_V2 mobilenet_v2-7ebf99e0 232 224 bilinear
ResNeXt101_32X8D_Weights.IMAGENET1K_V1 resnext101_32x8d-8ba56ff5 256 224 bilinear
ResNeXt101_32X8D_Weights.IMAGENET1K_V2 resnext101_32x8d-110c445d 232 224 bilinear
ResNeXt101_64X4D_Weights.IMAGENET1K_V1 resnext101_64x4d-173b62eb 232 224 bilinear
ResNeXt50_32X4D_Weights.IMAGENET1K_V1 resnext50_32x4d-7cdf4587 256 224 bilinear
ResNeXt50_32X4D_Weights.IMAGENET1K_V2 resnext50_32x4d-1a0047aa 232 224 bilinear
ResNet101_Weights.IMAGENET1K_V1 resnet101-63fe2227 256 224 bilinear
ResNet101_Weights.IMAGENET1K_V2 resnet101-cd907fc2 232 224 bilinear
ResNet152_Weights.IMAGENET1K_V1 resnet152-394f9c45 256 224 bilinear
ResNet152_Weights.IMAGENET1K_V2 resnet152-f82ba261 232 224 bilinear
ResNet18_Weights.IMAGENET1K_V1 resnet18-f37072fd 256 224 bilinear
ResNet34_Weights.IMAGENET1K_V1 resnet34-b627a593 256 224 bilinear
ResNet50_Weights.IMAGENET1K_V1 resnet50-0676ba61 256 224 bilinear
ResNet50_Weights.IMAGENET1K_V2 resnet50-11ad3fa6 232 224 bilinear
SqueezeNet1_0_Weights.IMAGENET1K_V1 squeezenet1_0-b66bff10 256 224 bilinear
SqueezeNet1_1_Weights.IMAGENET1K_V1 squeezenet1_1-b8a52dc0 256 224 bilinear
VGG11_BN_Weights.IMAGENET1K_V1 vgg11_bn-6002323d 256 224 bilinear
VGG11_Weights.IMAGENET1K_V1 vgg11-8a719046 256 224 bilinear
VGG13_BN_Weights.IMAGENET1K_V1 vgg13_bn-abd245e5 256 224 bilinear
VGG13_Weights.IMAGENET1K_V1 vgg13-19584684 256 224 bilinear
VGG16_BN_Weights.IMAGENET1K_V1 vgg16_bn-6c64b313 256 224 bilinear
VGG16_Weights.IMAGENET1K_V1 vgg16-397923af 256 224 bilinear
VGG19_BN_Weights.IMAGENET1K_V1 vgg19_bn-c79401a0 256 224 bilinear
VGG19_Weights.IMAGENET1K_V1 vgg19-dcbb9e9d 256 224 bilinear
ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1 vit_b_16_swag-9ac1b537 384 384 bicubic
ViT_B_16_Weights.IMAGENET1K_SWAG_LINEAR_V1 vit_b_16_lc_swag-4e70ced5 224 224 bicubic
ViT_B_16_Weights.IMAGENET1K_V1 vit_b_16-c867db91 256 224 bilinear
ViT_B_32_Weights.IMAGENET1K_V1 vit_b_32-d86f8d99 256 224 bilinear
ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1 vit_h_14_swag-80465313 518 518 bicubic
ViT_H_14_Weights.IMAGENET1K_SWAG_LINEAR_V1 vit_h_14_lc_swag-c1eb923e 224 224 bicubic
ViT_L_16_Weights.IMAGENET1K_SWAG_E2E_V1 vit_l_16_swag-4f3808c9 512 512 bicubic
ViT_L_16_Weights.IMAGENET1K_SWAG_LINEAR_V1 vit_l_16_lc_swag-4d563306 224 224 bicubic
ViT_L_16_Weights.IMAGENET1K_V1 vit_l_16-852ce7e3 242 224 bilinear
ViT_L_32_Weights.IMAGENET1K_V1 vit_l_32-c7638314 256 224 bilinear
Wide_ResNet50_2_Weights.IMAGENET1K_V1 wide_resnet50_2-95faca4d 256 224 bilinear
Wide_ResNet50_2_Weights.IMAGENET1K_V2 wide_resnet50_2-9ba9bcbe 232 224 bilinear
"""
# Model and tag; repository of the hub; "quick" where it was trained with QuickGELU.
_OPEN_CLIP = """
ViT-B-32/openai timm/vit_base_patch32_clip_224.openai quick
ViT-B-32/laion400m_e31 timm/vit_base_patch32_clip_224.laion400m_e31 quick
ViT-B-32/laion400m_e32 timm/vit_base_patch32_clip_224.laion400m_e32 quick
ViT-B-32/laion2b_e16 timm/vit_base_patch32_clip_224.laion2b_e16
ViT-B-32/laion2b_s34b_b79k laion/CLIP-ViT-B-32-laion2B-s34B-b79K
ViT-B-32/datacomp_xl_s13b_b90k laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K
ViT-B-32/datacomp_m_s128m_b4k laion/CLIP-ViT-B-32-DataComp.M-s128M-b4K
ViT-B-32/datacomp_s_s13m_b4k laion/CLIP-ViT-B-32-DataComp.S-s13M-b4K
ViT-B-32/metaclip_400m timm/vit_base_patch32_clip_224.metaclip_400m quick
ViT-B-32/metaclip_fullcc timm/vit_base_patch32_clip_224.metaclip_2pt5b quick
ViT-B-32-256/datacomp_s34b_b86k laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K
ViT-B-16/openai timm/vit_base_patch16_clip_224.openai quick
ViT-B-16/laion400m_e31 timm/vit_base_patch16_clip_224.laion400m_e31
ViT-B-16/laion400m_e32 timm/vit_base_patch16_clip_224.laion400m_e32
ViT-B-16/laion2b_s34b_b88k laion/CLIP-ViT-B-16-laion2B-s34B-b88K
ViT-B-16/datacomp_xl_s13b_b90k laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K
ViT-B-16/datacomp_l_s1b_b8k laion/CLIP-ViT-B-16-DataComp.L-s1B-b8K
ViT-B-16/dfn2b apple/DFN2B-CLIP-ViT-B-16 quick
ViT-B-16/metaclip_400m timm/vit_base_patch16_clip_224.metaclip_400m quick
ViT-B-16/metaclip_fullcc timm/vit_base_patch16_clip_224.metaclip_2pt5b quick
ViT-L-14/openai timm/vit_large_patch14_clip_224.openai quick
ViT-L-14/laion400m_e31 timm/vit_large_patch14_clip_224.laion400m_e31
ViT-L-14/laion400m_e32 timm/vit_large_patch14_clip_224.laion400m_e32
ViT-L-14/laion2b_s32b_b82k laion/CLIP-ViT-L-14-laion2B-s32B-b82K
ViT-L-14/datacomp_xl_s13b_b90k laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K
ViT-L-14/metaclip_400m timm/vit_large_patch14_clip_224.metaclip_400m quick
ViT-L-14/metaclip_fullcc timm/vit_large_patch14_clip_224.metaclip_2pt5b quick
ViT-L-14/dfn2b apple/DFN2B-CLIP-ViT-L-14 quick
ViT-L-14/dfn2b_s39b apple/DFN2B-CLIP-ViT-L-14-39B
ViT-L-14-336/openai timm/vit_large_patch14_clip_336.openai quick
ViT-H-14/laion2b_s32b_b79k laion/CLIP-ViT-H-14-laion2B-s32B-b79K
ViT-H-14/metaclip_fullcc timm/vit_huge_patch14_clip_224.metaclip_2pt5b quick
ViT-H-14/metaclip_altogether timm/vit_huge_patch14_clip_224.metaclip_altogether
ViT-H-14/dfn5b apple/DFN5B-CLIP-ViT-H-14 quick
ViT-B-16-SigLIP/webli timm/ViT-B-16-SigLIP
ViT-B-16-SigLIP-256/webli timm/ViT-B-16-SigLIP-256
ViT-B-16-SigLIP-384/webli timm/ViT-B-16-SigLIP-384
ViT-B-16-SigLIP-512/webli timm/ViT-B-16-SigLIP-512
ViT-L-16-SigLIP-256/webli timm/ViT-L-16-SigLIP-256
ViT-L-16-SigLIP-384/webli timm/ViT-L-16-SigLIP-384
ViT-SO400M-14-SigLIP/webli timm/ViT-SO400M-14-SigLIP
ViT-SO400M-14-SigLIP-384/webli timm/ViT-SO400M-14-SigLIP-384
"""


class OfTorchvision(NamedTuple):
    """Weights of torchvision.

    Attributes:
      file: in TORCHVISION_FOLDER.
      checksum: "sha256:" and the first 8 digits.
      short_side, crop: in pixels.
      interpolation: "bilinear" or "bicubic".
    """

    file: str
    checksum: str
    short_side: int
    crop: int
    interpolation: str


class OfOpenClip(NamedTuple):
    """Weights of OpenCLIP.

    Attributes:
      repository: OWNER/NAME.
      quick_gelu: whether they were trained with QuickGELU.
    """

    repository: str
    quick_gelu: bool


def _of_torchvision(line: str) -> tuple[str, OfTorchvision]:
    name, stem, short_side, crop, interpolation = line.split()
    checksum = f"sha256:{stem.rpartition('-')[2]}"
    return name, OfTorchvision(f"{stem}.pth", checksum, int(short_side), int(crop), interpolation)


def _of_open_clip(line: str) -> tuple[str, OfOpenClip]:
    name, repository, *quick = line.split()
    return name, OfOpenClip(repository, bool(quick))


TORCHVISION = dict(map(_of_torchvision, _TORCHVISION.strip().splitlines()))
OPEN_CLIP = dict(map(_of_open_clip, _OPEN_CLIP.strip().splitlines()))
