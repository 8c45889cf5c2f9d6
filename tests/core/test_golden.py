"""Frozen ids and digests of the smallest learngene's descendants: DESIGN.md section 3 as bytes.

A difference here means that recipes which users hold now name other bytes. Then the format's version must change; the table may
be printed anew by `python -m tests.core.test_golden` only with that.
"""

from __future__ import annotations

import hashlib

import pytest

from tleg_core.descendant import Descendant
from tleg_core.description import Method
from tleg_core.dtype import DType
from tleg_core.family import Family, Variation
from tleg_core.recipe import Head, Member

from .conftest import METHOD_SCHEDULES, build_learngene

DEPTH = 7

LEARNGENES: dict[str, str] = {
    "tleg": "caad2abb8cffab8d5825b791a5e29d806ba8d6b8e8125e325db41f87aa8218c5",
    "polynomial": "b6092fc79e32a7bb24bf25a48674454e83e5c4891e2acd6a69ce93c38c29ed3a",
    "spline": "a9bb5d084ebfc1a8225501c2619880f8adf0398310ec235758002d4eb41b9046",
    "stagewise": "1658e1e25e9437194111cd4fece7e9aa7e7c4781e6861cf5045d13b159cf92fa",
}

DESCENDANTS: dict[str, tuple[str, str]] = {
    "tleg-float32-inherit": (
        "m-c721fd7fef5f4bf870f75c55650aed89",
        "97f454be425ae0a13e6e19c2394aad54cf3cf15ba12c7d0d72911090d8443a99",
    ),
    "tleg-float32-zero": (
        "m-828be59157e5da1ccacd6369f8b7bbda",
        "4b063b632d85151a1359f6b8d84cd9a0d4a360e19ff260435bc0af96fe40c434",
    ),
    "tleg-float32-random": (
        "m-c0b8fcafeac36892b0122e66f8ffdb95",
        "ca095952e5a7ceb03d200a6de08804864940ee68ec80f059e2bc5b55fff158c9",
    ),
    "tleg-float32-none": (
        "m-d89e54b3adbe6f4903cbbf7a33207cc6",
        "e38634645c8160b8aaa7aaa4cdd4b07cf0fc4b0591785cd215066439ea15dc26",
    ),
    "tleg-float32-resampled": (
        "m-012096690a36bc5ca5d41af14f6409ce",
        "63a59d69e9db952f909d9bcdcabc2368eb2083a104f35e57dd847e6765b64b25",
    ),
    "tleg-float16-inherit": (
        "m-1d6720fc30c8bd9a896e77ddff055703",
        "fa5f82412248d9f41f6bac889c7475d2675c0d9db6c0200d6ca3c8effa58e023",
    ),
    "tleg-float16-zero": (
        "m-d0286ac7e3dac933e893938aa6633a74",
        "d676b38ac5baef8d541629074335372bbc93ecb9bb8f8c5b6006d2a581db50b4",
    ),
    "tleg-float16-random": (
        "m-8457ef434f3a4fe5de88732d2b57d46d",
        "7d0ca4162e0853957a789633b56adc3c068bc8c453535d6ac61d08e3548cca15",
    ),
    "tleg-float16-none": (
        "m-9c7c8961dbbc8f56f111222118196203",
        "53a1c0d116575cf58c54371063f77252c503e60a1779f3c5282726d16622c40c",
    ),
    "tleg-float16-resampled": (
        "m-2dc7ffe7df9e0f59652c44029c44c272",
        "c06af091e8204011f46d715f432d745543be03d8ae1cd4c1b6c15d5625486465",
    ),
    "tleg-bfloat16-inherit": (
        "m-a47949aa5836b44cf0998534eb5912d6",
        "fedb1fdc5d5df51ef94486fff198f80ffcd99b0feb15b11b65d23e5e610c5431",
    ),
    "tleg-bfloat16-zero": (
        "m-73bf57cf3ea08edaadad1c4112245616",
        "8485539812ea90d6888741e2792f549c784d419da6cb6f867b563a1522da4139",
    ),
    "tleg-bfloat16-random": (
        "m-caa55739585218a6014027a9f02ec253",
        "03609337edf8ea4086b45e79331c54946fbe30dcea75c9ef401bbd9d4a5b2f20",
    ),
    "tleg-bfloat16-none": (
        "m-72f5e8c723c348b68474244f5d70432c",
        "e72796bf56a9e6af5f9e1db5c7b42d3b88f82440e8b9aaa6b68e704d66f8cc5b",
    ),
    "tleg-bfloat16-resampled": (
        "m-baeb9b735e76e8785b7328db9f146c67",
        "e4135d0e4d9b394a7c1aa77d864c839a8b33e9d8bad95e853160facd9b758726",
    ),
    "polynomial-float32-inherit": (
        "m-a69e89633c0e614f3e927e84d690b43d",
        "2116c9e11bbaf747c76f26b4483cc847223a701c140d1fdad74fd5dfe3015396",
    ),
    "polynomial-float32-zero": (
        "m-8cec5d8dad5b9eafc76746ae0fc8e87d",
        "33d535a31ff8f0c8a0c179d1e9f16dc385c8efad1977ac73bd86e1be1c55b947",
    ),
    "polynomial-float32-random": (
        "m-2b42809996879ce1856a7835e551ceec",
        "c6d4409f0cd8be92c10f2a615f25efe05180c85f2a568d0cd63f2b659011900f",
    ),
    "polynomial-float32-none": (
        "m-4ec55f7dcf928d1802cd110d76000719",
        "be799738cd18309d06d4953e5039d87e8535e8244101ad2bbfc3322d235b35a0",
    ),
    "polynomial-float32-resampled": (
        "m-214e2d2546cd71a4faebe42d3d048c52",
        "bcf68bb5146a7cce884207f259b4ac441a084387138aa44035535f5768152a0e",
    ),
    "polynomial-float16-inherit": (
        "m-1df43f0041045bd0060173a6bc435588",
        "38fa1489c43b4942375058eca541ac7f19d85ff089e3039270774a037b850093",
    ),
    "polynomial-float16-zero": (
        "m-aa9ef87e5d1e9a60c4354bda7583cccb",
        "05385578b37a584bb2a1b3ff9fc700653a06f4ad0a48210d64f219aba635487d",
    ),
    "polynomial-float16-random": (
        "m-d47f0119e102f34a618f57971a5dcfef",
        "26a5422c7a932613e914337ea82115364572ac1108980cfc302ccb4520862c78",
    ),
    "polynomial-float16-none": (
        "m-20b0c31d7de999d2a1c7c015c725d493",
        "11f670281a9bb157c2ee9f526bc9d14474a94263e9e0be57acc2927101d648fc",
    ),
    "polynomial-float16-resampled": (
        "m-c8ec6c2d603daa5f541734d2c1eb8c8a",
        "3b94ce29b9a7ede937cb3cc6c527615199dde226b2354aa23f64df5f310be914",
    ),
    "polynomial-bfloat16-inherit": (
        "m-ea138586a7199ff96bf57c1e5f3f380e",
        "171067b715d366c8541f59656fcf7543c50ce8455c4eef609d465ed347d907b9",
    ),
    "polynomial-bfloat16-zero": (
        "m-7cee461d9ef4f87b4dc747a8c6f7a196",
        "5878a4c2a4a4d304054b4a9346a72c3d47d7838def2816d9a1bb481550b33e18",
    ),
    "polynomial-bfloat16-random": (
        "m-cd692f843e4e90ff24b8dcce23ef6e81",
        "d9ec70fc3a7bab2c87d93c284af60fc87b46fb5743719018bf36e3b329d4fc63",
    ),
    "polynomial-bfloat16-none": (
        "m-29359da473ea3b35e4d00da4a3d6d72d",
        "1c5612701e07e0d1a187e0c83091d3d99bb2b5fe1d7783c0184305f4d1ad3335",
    ),
    "polynomial-bfloat16-resampled": (
        "m-f5654bbd45a4d6e692cbc2429d85ca74",
        "6f732bfb965272392c32d14ff2ae5eed99b8a972f931b0b0451d94f82ce28f25",
    ),
    "spline-float32-inherit": (
        "m-f2453a738e4cffcfc72066b1a018f5f7",
        "dc0980cacb7c13b9959a88dade62eac8f18e7abb372826519a2d054552ed45ff",
    ),
    "spline-float32-zero": (
        "m-3ef9c679e950e804aec60b752b4fc562",
        "9429405ee57d867d1cbde6f424676ae467d0b40577d105ffe837767403487a21",
    ),
    "spline-float32-random": (
        "m-dc0506150b0a073f6739f4c9204b9a3d",
        "b35b1bb910604ee4efa43f57b27f3ebb5047e5c082b41e39ef99c8ce7071ba85",
    ),
    "spline-float32-none": (
        "m-ebb2700ca00c7052308ab272beab551d",
        "ba652737833d28b2b2329e8c2f19e56a7c9c82aed2a76e9946a7d81d7afdb90d",
    ),
    "spline-float32-resampled": (
        "m-dd80e19eb228a2b1a7ebded5957524a5",
        "91b1c5bdb52309d9475aef9e80d552f6bb968e8cf88223146bb6097a13c499f7",
    ),
    "spline-float16-inherit": (
        "m-20056db9469c0b48322afad6fb9b9c95",
        "0987309835206198c4f6b2ef42d2b6b6bf2778b1d1d49fa524af515658437aae",
    ),
    "spline-float16-zero": (
        "m-22bd22d1e8a8564ce92efe449bb98620",
        "51dd480b42a136c97b0ca9e641dd6b54367b3dc256ca5b9ba078c3fd655a16fa",
    ),
    "spline-float16-random": (
        "m-5471111aca376855ead32c8a53f48632",
        "1badf6525e3390ba0b516a31f3f4b3391bd9bbb88bdb151bf9179405236f2d5e",
    ),
    "spline-float16-none": (
        "m-e3b9423046504c4a1c938b567271862f",
        "825173bdbf81fb3d599d141a39fe5d019801e17c197e2c254846f2b757f0ce26",
    ),
    "spline-float16-resampled": (
        "m-826674d6b813ca15e82a9c2677e4bb17",
        "20914288c4959c81e5910a066d3f0ff45330571a52506e08a8ecae2afed73efc",
    ),
    "spline-bfloat16-inherit": (
        "m-1fe8b10ab7bcc02c75d3efbc24b37cc5",
        "dda17fde4f789a53d3df32a54c1817a1cecaaeec4de4631e44fbe401f4c14e58",
    ),
    "spline-bfloat16-zero": (
        "m-de14fac781c753b6e3e8bdcba0146449",
        "efdae944fe833a54a82778cccd706307c44f4eba44b7d4dd619dad35ab0ab92f",
    ),
    "spline-bfloat16-random": (
        "m-fde8aacd9f80469ede8fa8366e6e148a",
        "f46b3a35bbed2c222c161e873e2772fe08ea1ce88765b907d7106444d4a3cf6b",
    ),
    "spline-bfloat16-none": (
        "m-07d77b6725cc7f81d068d1d65898eec2",
        "fc235973c8b6ce160d8da6ebd27959c0cc09c5ac85ead0d5d930d46106254142",
    ),
    "spline-bfloat16-resampled": (
        "m-13874700354b76f1a0d55fc59b901863",
        "30e4c815bee64983075eea010bcfd00f6d512c7560a634e73ba4dd45a49b18f6",
    ),
    "stagewise-float32-inherit": (
        "m-c13bc195cec51c55587ce16c45047599",
        "cfe654e5985de66ec44cdce851eaf3e03549dd61393b32a102a9ee5c96517695",
    ),
    "stagewise-float32-zero": (
        "m-4503addab23bc7dc85ffe145dbd89845",
        "3b28617cf6042820aa94c964f57b406a342203164d458a4ac516e8f50260a6e0",
    ),
    "stagewise-float32-random": (
        "m-2b6cf413ffce2c63105f2de7b85b51bd",
        "8f4288f2737b526095755f24bcf9198621b6301bd9afcc7411af03c38ed34203",
    ),
    "stagewise-float32-none": (
        "m-e83ab0ab1d4f38951b848c5fec6fd08d",
        "ea009dd883203752dde1eb136fd6c5b937be3855dbc5cd7c6adcd68546563490",
    ),
    "stagewise-float32-resampled": (
        "m-b7dc8510164985f9d6356a1a48905d19",
        "719d4c99afaa314c762fb07e186ef47e54612b16612fa0eee4a14b6148afa8dd",
    ),
    "stagewise-float16-inherit": (
        "m-ae05ec7039d05183dfe3b02e1cafb809",
        "435d81c3fb5f99e53841eb603260d6bc967debfcf38eaba824547ef3794f52a7",
    ),
    "stagewise-float16-zero": (
        "m-6ab0e618476e260cd75a2fe998314804",
        "866350c1ab6c24f271989704992b3f37397a1b42026c0538820a9a9097369860",
    ),
    "stagewise-float16-random": (
        "m-53e2811fe7390103d387b41140f4df2a",
        "cd2193bb2d45bc9c2db12815f02a8d38f867a6601e214ae66277c673db2f193f",
    ),
    "stagewise-float16-none": (
        "m-24e81d90252f93c77794e9d5d86bd568",
        "42cebd5d623d537a6cc0d1057963202657f7cdbba0e20c22e6831b180aa16979",
    ),
    "stagewise-float16-resampled": (
        "m-a763f068cb27dbe304a5ee9e0d70aea1",
        "ccea2c5e9b99cf97db299aa697edc9d38298137e65f05269133deb27f28ee677",
    ),
    "stagewise-bfloat16-inherit": (
        "m-d2e2c1f9d476de7ba6d1ae5c44420a80",
        "9793cd8d77c3dc2448780c75cd9576d5b056a293351ee9f9556bd90cc9e7d94a",
    ),
    "stagewise-bfloat16-zero": (
        "m-1b3749fe038d0f7f613a938ee00851ea",
        "56a479e59dcc7ad915074a3945c27c8d59da8b1e0b8c08ff71a4aca01bd45d66",
    ),
    "stagewise-bfloat16-random": (
        "m-4df1d91adb2f09b18a14e4c9ec27b557",
        "dce7548c65569124ae8f2ae26c4895cad638b4106e384922f12aa6de36120e8d",
    ),
    "stagewise-bfloat16-none": (
        "m-02c6d5d5a17f556a320ebf1e66b92e02",
        "77634b0999f629160387faa4e4e6723fa449ddeaeed741f20499ace6f3521cea",
    ),
    "stagewise-bfloat16-resampled": (
        "m-82b1c7c53fde51c54577ebc6a4280eec",
        "12b521d2c11aaaec4d975c793b4f7d5f5ea32737a4ece4f046cee244d30d1b07",
    ),
}

VARIATIONS = {
    "inherit": (Head.INHERIT, None, None),
    "zero": (Head.ZERO, 3, None),
    "random": (Head.RANDOM, 5, None),
    "none": (Head.NONE, 0, None),
    "resampled": (Head.INHERIT, None, 48),
}

CASES = [f"{method}-{dtype}-{variation}" for method in METHOD_SCHEDULES for dtype in DType for variation in VARIATIONS]


def descendant_of(case: str) -> Descendant:
    """Return the file of a table's key."""
    method, dtype, variation = case.split("-")
    head, num_classes, img_size = VARIATIONS[variation]
    family = Family(build_learngene(method=Method(method)))
    request = Variation(num_classes=num_classes, img_size=img_size, dtype=DType(dtype))
    return Descendant(family, family.recipe(Member(depth=DEPTH), request, head=head, seed=2024))


@pytest.mark.parametrize("method", METHOD_SCHEDULES)
def test_a_learngenes_digest_is_frozen(method: Method) -> None:
    """The digest that recipes name is as it was."""
    assert build_learngene(method=method).digest == LEARNGENES[method.value]


@pytest.mark.parametrize("case", CASES)
def test_a_descendants_id_and_bytes_are_frozen(case: str) -> None:
    """The id of a recipe and the sha256 of its file are as they were, the digest taken of the bytes as they are read."""
    descendant = descendant_of(case)
    content = descendant.read(0, descendant.size)
    assert (descendant.recipe.model_id, hashlib.sha256(content).hexdigest()) == DESCENDANTS[case]
    assert descendant.sha256() == DESCENDANTS[case][1]


if __name__ == "__main__":
    for method in Method:
        print(f'    "{method}": "{build_learngene(method=method).digest}",')
    for case in CASES:
        descendant = descendant_of(case)
        print(f'    "{case}": ("{descendant.recipe.model_id}", "{descendant.sha256()}"),')
