"""Frozen ids and digests of the smallest learngene's descendants: DESIGN.md section 3 as bytes.

A difference here means that recipes which users hold now name other bytes. Then the format's version must change; the table may
be printed anew by `python -m tests.core.test_golden` only with that.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from tleg_core.descendant import Descendant
from tleg_core.description import Method
from tleg_core.dtype import DType
from tleg_core.family import Family, Variation
from tleg_core.learngene import Learngene
from tleg_core.path import Path
from tleg_core.recipe import Head, Member

from .conftest import METHOD_SCHEDULES, TEST_POOL, build_learngene, build_pool, build_scratch

DEPTH = 7

LEARNGENES: dict[str, str] = {
    "tleg": "caad2abb8cffab8d5825b791a5e29d806ba8d6b8e8125e325db41f87aa8218c5",
    "polynomial": "b6092fc79e32a7bb24bf25a48674454e83e5c4891e2acd6a69ce93c38c29ed3a",
    "spline": "a9bb5d084ebfc1a8225501c2619880f8adf0398310ec235758002d4eb41b9046",
    "stagewise": "1658e1e25e9437194111cd4fece7e9aa7e7c4781e6861cf5045d13b159cf92fa",
    "learngene": "8472043051aa0b4ee3a044c0866c0f98363de4d9bd2d1d808ec9191f48526a21",
    "pool": "0781b5e7c8a2907fba88026bba7736ea9ed7cc36dc5c1e869330094a42457e44",
    "sn-net": "bbd9869db04914c54af5b1518be20b41f49de8e8a58b4a1b205ad6aba3bc8942",
    "pretrained": "43d3fe7a0cb2cf7a6c9921264a49595c811cb2995e04577eeea860e0e6549e9f",
    "scratch": "012b35c816583697112fcb378d007a5ad7da583401b447eed3c07abb7be9c3b4",
}

DESCENDANTS: dict[str, tuple[str, str]] = {
    "tleg:float32:inherit": (
        "m-c721fd7fef5f4bf870f75c55650aed89",
        "97f454be425ae0a13e6e19c2394aad54cf3cf15ba12c7d0d72911090d8443a99",
    ),
    "tleg:float32:zero": (
        "m-828be59157e5da1ccacd6369f8b7bbda",
        "4b063b632d85151a1359f6b8d84cd9a0d4a360e19ff260435bc0af96fe40c434",
    ),
    "tleg:float32:random": (
        "m-c0b8fcafeac36892b0122e66f8ffdb95",
        "ca095952e5a7ceb03d200a6de08804864940ee68ec80f059e2bc5b55fff158c9",
    ),
    "tleg:float32:none": (
        "m-d89e54b3adbe6f4903cbbf7a33207cc6",
        "e38634645c8160b8aaa7aaa4cdd4b07cf0fc4b0591785cd215066439ea15dc26",
    ),
    "tleg:float32:resampled": (
        "m-012096690a36bc5ca5d41af14f6409ce",
        "63a59d69e9db952f909d9bcdcabc2368eb2083a104f35e57dd847e6765b64b25",
    ),
    "tleg:float16:inherit": (
        "m-1d6720fc30c8bd9a896e77ddff055703",
        "fa5f82412248d9f41f6bac889c7475d2675c0d9db6c0200d6ca3c8effa58e023",
    ),
    "tleg:float16:zero": (
        "m-d0286ac7e3dac933e893938aa6633a74",
        "d676b38ac5baef8d541629074335372bbc93ecb9bb8f8c5b6006d2a581db50b4",
    ),
    "tleg:float16:random": (
        "m-8457ef434f3a4fe5de88732d2b57d46d",
        "7d0ca4162e0853957a789633b56adc3c068bc8c453535d6ac61d08e3548cca15",
    ),
    "tleg:float16:none": (
        "m-9c7c8961dbbc8f56f111222118196203",
        "53a1c0d116575cf58c54371063f77252c503e60a1779f3c5282726d16622c40c",
    ),
    "tleg:float16:resampled": (
        "m-2dc7ffe7df9e0f59652c44029c44c272",
        "c06af091e8204011f46d715f432d745543be03d8ae1cd4c1b6c15d5625486465",
    ),
    "tleg:bfloat16:inherit": (
        "m-a47949aa5836b44cf0998534eb5912d6",
        "fedb1fdc5d5df51ef94486fff198f80ffcd99b0feb15b11b65d23e5e610c5431",
    ),
    "tleg:bfloat16:zero": (
        "m-73bf57cf3ea08edaadad1c4112245616",
        "8485539812ea90d6888741e2792f549c784d419da6cb6f867b563a1522da4139",
    ),
    "tleg:bfloat16:random": (
        "m-caa55739585218a6014027a9f02ec253",
        "03609337edf8ea4086b45e79331c54946fbe30dcea75c9ef401bbd9d4a5b2f20",
    ),
    "tleg:bfloat16:none": (
        "m-72f5e8c723c348b68474244f5d70432c",
        "e72796bf56a9e6af5f9e1db5c7b42d3b88f82440e8b9aaa6b68e704d66f8cc5b",
    ),
    "tleg:bfloat16:resampled": (
        "m-baeb9b735e76e8785b7328db9f146c67",
        "e4135d0e4d9b394a7c1aa77d864c839a8b33e9d8bad95e853160facd9b758726",
    ),
    "polynomial:float32:inherit": (
        "m-a69e89633c0e614f3e927e84d690b43d",
        "2116c9e11bbaf747c76f26b4483cc847223a701c140d1fdad74fd5dfe3015396",
    ),
    "polynomial:float32:zero": (
        "m-8cec5d8dad5b9eafc76746ae0fc8e87d",
        "33d535a31ff8f0c8a0c179d1e9f16dc385c8efad1977ac73bd86e1be1c55b947",
    ),
    "polynomial:float32:random": (
        "m-2b42809996879ce1856a7835e551ceec",
        "c6d4409f0cd8be92c10f2a615f25efe05180c85f2a568d0cd63f2b659011900f",
    ),
    "polynomial:float32:none": (
        "m-4ec55f7dcf928d1802cd110d76000719",
        "be799738cd18309d06d4953e5039d87e8535e8244101ad2bbfc3322d235b35a0",
    ),
    "polynomial:float32:resampled": (
        "m-214e2d2546cd71a4faebe42d3d048c52",
        "bcf68bb5146a7cce884207f259b4ac441a084387138aa44035535f5768152a0e",
    ),
    "polynomial:float16:inherit": (
        "m-1df43f0041045bd0060173a6bc435588",
        "38fa1489c43b4942375058eca541ac7f19d85ff089e3039270774a037b850093",
    ),
    "polynomial:float16:zero": (
        "m-aa9ef87e5d1e9a60c4354bda7583cccb",
        "05385578b37a584bb2a1b3ff9fc700653a06f4ad0a48210d64f219aba635487d",
    ),
    "polynomial:float16:random": (
        "m-d47f0119e102f34a618f57971a5dcfef",
        "26a5422c7a932613e914337ea82115364572ac1108980cfc302ccb4520862c78",
    ),
    "polynomial:float16:none": (
        "m-20b0c31d7de999d2a1c7c015c725d493",
        "11f670281a9bb157c2ee9f526bc9d14474a94263e9e0be57acc2927101d648fc",
    ),
    "polynomial:float16:resampled": (
        "m-c8ec6c2d603daa5f541734d2c1eb8c8a",
        "3b94ce29b9a7ede937cb3cc6c527615199dde226b2354aa23f64df5f310be914",
    ),
    "polynomial:bfloat16:inherit": (
        "m-ea138586a7199ff96bf57c1e5f3f380e",
        "171067b715d366c8541f59656fcf7543c50ce8455c4eef609d465ed347d907b9",
    ),
    "polynomial:bfloat16:zero": (
        "m-7cee461d9ef4f87b4dc747a8c6f7a196",
        "5878a4c2a4a4d304054b4a9346a72c3d47d7838def2816d9a1bb481550b33e18",
    ),
    "polynomial:bfloat16:random": (
        "m-cd692f843e4e90ff24b8dcce23ef6e81",
        "d9ec70fc3a7bab2c87d93c284af60fc87b46fb5743719018bf36e3b329d4fc63",
    ),
    "polynomial:bfloat16:none": (
        "m-29359da473ea3b35e4d00da4a3d6d72d",
        "1c5612701e07e0d1a187e0c83091d3d99bb2b5fe1d7783c0184305f4d1ad3335",
    ),
    "polynomial:bfloat16:resampled": (
        "m-f5654bbd45a4d6e692cbc2429d85ca74",
        "6f732bfb965272392c32d14ff2ae5eed99b8a972f931b0b0451d94f82ce28f25",
    ),
    "spline:float32:inherit": (
        "m-f2453a738e4cffcfc72066b1a018f5f7",
        "dc0980cacb7c13b9959a88dade62eac8f18e7abb372826519a2d054552ed45ff",
    ),
    "spline:float32:zero": (
        "m-3ef9c679e950e804aec60b752b4fc562",
        "9429405ee57d867d1cbde6f424676ae467d0b40577d105ffe837767403487a21",
    ),
    "spline:float32:random": (
        "m-dc0506150b0a073f6739f4c9204b9a3d",
        "b35b1bb910604ee4efa43f57b27f3ebb5047e5c082b41e39ef99c8ce7071ba85",
    ),
    "spline:float32:none": (
        "m-ebb2700ca00c7052308ab272beab551d",
        "ba652737833d28b2b2329e8c2f19e56a7c9c82aed2a76e9946a7d81d7afdb90d",
    ),
    "spline:float32:resampled": (
        "m-dd80e19eb228a2b1a7ebded5957524a5",
        "91b1c5bdb52309d9475aef9e80d552f6bb968e8cf88223146bb6097a13c499f7",
    ),
    "spline:float16:inherit": (
        "m-20056db9469c0b48322afad6fb9b9c95",
        "0987309835206198c4f6b2ef42d2b6b6bf2778b1d1d49fa524af515658437aae",
    ),
    "spline:float16:zero": (
        "m-22bd22d1e8a8564ce92efe449bb98620",
        "51dd480b42a136c97b0ca9e641dd6b54367b3dc256ca5b9ba078c3fd655a16fa",
    ),
    "spline:float16:random": (
        "m-5471111aca376855ead32c8a53f48632",
        "1badf6525e3390ba0b516a31f3f4b3391bd9bbb88bdb151bf9179405236f2d5e",
    ),
    "spline:float16:none": (
        "m-e3b9423046504c4a1c938b567271862f",
        "825173bdbf81fb3d599d141a39fe5d019801e17c197e2c254846f2b757f0ce26",
    ),
    "spline:float16:resampled": (
        "m-826674d6b813ca15e82a9c2677e4bb17",
        "20914288c4959c81e5910a066d3f0ff45330571a52506e08a8ecae2afed73efc",
    ),
    "spline:bfloat16:inherit": (
        "m-1fe8b10ab7bcc02c75d3efbc24b37cc5",
        "dda17fde4f789a53d3df32a54c1817a1cecaaeec4de4631e44fbe401f4c14e58",
    ),
    "spline:bfloat16:zero": (
        "m-de14fac781c753b6e3e8bdcba0146449",
        "efdae944fe833a54a82778cccd706307c44f4eba44b7d4dd619dad35ab0ab92f",
    ),
    "spline:bfloat16:random": (
        "m-fde8aacd9f80469ede8fa8366e6e148a",
        "f46b3a35bbed2c222c161e873e2772fe08ea1ce88765b907d7106444d4a3cf6b",
    ),
    "spline:bfloat16:none": (
        "m-07d77b6725cc7f81d068d1d65898eec2",
        "fc235973c8b6ce160d8da6ebd27959c0cc09c5ac85ead0d5d930d46106254142",
    ),
    "spline:bfloat16:resampled": (
        "m-13874700354b76f1a0d55fc59b901863",
        "30e4c815bee64983075eea010bcfd00f6d512c7560a634e73ba4dd45a49b18f6",
    ),
    "stagewise:float32:inherit": (
        "m-c13bc195cec51c55587ce16c45047599",
        "cfe654e5985de66ec44cdce851eaf3e03549dd61393b32a102a9ee5c96517695",
    ),
    "stagewise:float32:zero": (
        "m-4503addab23bc7dc85ffe145dbd89845",
        "3b28617cf6042820aa94c964f57b406a342203164d458a4ac516e8f50260a6e0",
    ),
    "stagewise:float32:random": (
        "m-2b6cf413ffce2c63105f2de7b85b51bd",
        "8f4288f2737b526095755f24bcf9198621b6301bd9afcc7411af03c38ed34203",
    ),
    "stagewise:float32:none": (
        "m-e83ab0ab1d4f38951b848c5fec6fd08d",
        "ea009dd883203752dde1eb136fd6c5b937be3855dbc5cd7c6adcd68546563490",
    ),
    "stagewise:float32:resampled": (
        "m-b7dc8510164985f9d6356a1a48905d19",
        "719d4c99afaa314c762fb07e186ef47e54612b16612fa0eee4a14b6148afa8dd",
    ),
    "stagewise:float16:inherit": (
        "m-ae05ec7039d05183dfe3b02e1cafb809",
        "435d81c3fb5f99e53841eb603260d6bc967debfcf38eaba824547ef3794f52a7",
    ),
    "stagewise:float16:zero": (
        "m-6ab0e618476e260cd75a2fe998314804",
        "866350c1ab6c24f271989704992b3f37397a1b42026c0538820a9a9097369860",
    ),
    "stagewise:float16:random": (
        "m-53e2811fe7390103d387b41140f4df2a",
        "cd2193bb2d45bc9c2db12815f02a8d38f867a6601e214ae66277c673db2f193f",
    ),
    "stagewise:float16:none": (
        "m-24e81d90252f93c77794e9d5d86bd568",
        "42cebd5d623d537a6cc0d1057963202657f7cdbba0e20c22e6831b180aa16979",
    ),
    "stagewise:float16:resampled": (
        "m-a763f068cb27dbe304a5ee9e0d70aea1",
        "ccea2c5e9b99cf97db299aa697edc9d38298137e65f05269133deb27f28ee677",
    ),
    "stagewise:bfloat16:inherit": (
        "m-d2e2c1f9d476de7ba6d1ae5c44420a80",
        "9793cd8d77c3dc2448780c75cd9576d5b056a293351ee9f9556bd90cc9e7d94a",
    ),
    "stagewise:bfloat16:zero": (
        "m-1b3749fe038d0f7f613a938ee00851ea",
        "56a479e59dcc7ad915074a3945c27c8d59da8b1e0b8c08ff71a4aca01bd45d66",
    ),
    "stagewise:bfloat16:random": (
        "m-4df1d91adb2f09b18a14e4c9ec27b557",
        "dce7548c65569124ae8f2ae26c4895cad638b4106e384922f12aa6de36120e8d",
    ),
    "stagewise:bfloat16:none": (
        "m-02c6d5d5a17f556a320ebf1e66b92e02",
        "77634b0999f629160387faa4e4e6723fa449ddeaeed741f20499ace6f3521cea",
    ),
    "stagewise:bfloat16:resampled": (
        "m-82b1c7c53fde51c54577ebc6a4280eec",
        "12b521d2c11aaaec4d975c793b4f7d5f5ea32737a4ece4f046cee244d30d1b07",
    ),
    "learngene:float32:inherit": (
        "m-baf57f6e4ac8b6fbe823640b4a7cc86d",
        "e1931cd587e0213849b361059ab6d5816d7441c39107836385abc209dfc66608",
    ),
    "learngene:float32:zero": (
        "m-7006c0ffc06c4229f6744226e17633e8",
        "24cd69d76403b126f0a4c6c83eb5a346a3e45a1fae92f131be2eabca880b73f7",
    ),
    "learngene:float32:random": (
        "m-d1e73ddb3ea624ebdf863d8474b51077",
        "99f3996111bf332e8b213bb27e40258136552e879e0205c435fda43e59b37940",
    ),
    "learngene:float32:none": (
        "m-06787a011910d4c5547e2707138ef6f3",
        "8324474b3a92697020a586770ce0052864c481bd830a4767d56ca4782b1bbf0a",
    ),
    "learngene:float32:resampled": (
        "m-a34a78e9a6eeda99678471b588128ced",
        "b21207f1ab32e9e8cab689e8df801f147842f085f73b3d28f6f3c6caa9aaedb1",
    ),
    "learngene:float16:inherit": (
        "m-220cc736c61a21465fe32fb70e60fd82",
        "244826c689743f0bb800cee189c9b9087a89f857717738eadca1ab48d9e364b9",
    ),
    "learngene:float16:zero": (
        "m-2e5cf5bc6a0002b4689a86d7db66403c",
        "111c7bb4c8e31699a56872b3b3ec4ded0536127d267977cf2914184307210173",
    ),
    "learngene:float16:random": (
        "m-32001bbe0a10a3cdb74f88a515b0bd18",
        "b28246525ed12467edea7055aad3aa45aafa57e49163df012f5a4d3c6493ee59",
    ),
    "learngene:float16:none": (
        "m-12f92284b4ba80ea409996a6d94881b2",
        "73de6674d9dc6f52b73b5bbd6c065545bde81d7da2232630154b8807b24549b3",
    ),
    "learngene:float16:resampled": (
        "m-7c35fb17e3741a37a68882573d183a11",
        "70d2d2853906b1fd149438c82a26e6e85a573e43b4a710bb7bafd869a1b778e6",
    ),
    "learngene:bfloat16:inherit": (
        "m-b9ad1e761a4020602af4b8e9488bfd68",
        "8ca8e62fd34215f2536a6a45d855e8584c98373aeb46d70fa3980db1c2f4e52d",
    ),
    "learngene:bfloat16:zero": (
        "m-61968bdb146f7f0388fa76b54133cd3a",
        "e2efef8bc2ec1e3199a658d7bccb1923640c997d8ab46f7123b39424c9fd4c27",
    ),
    "learngene:bfloat16:random": (
        "m-6f2fbacdcc87082cf9fe09311f957f46",
        "5cfe3b70da06281de53a8361941b80d043eb0f8143e756907b39a91800f44ff0",
    ),
    "learngene:bfloat16:none": (
        "m-f475f2b469bd1c7775eb3b696df91845",
        "d541e8105491c5ca397f5c1a5b48b24cd088d7d2a067f778caac84e1711726b7",
    ),
    "learngene:bfloat16:resampled": (
        "m-d24881a6bbac483f3b3c2e839b01e291",
        "e044906c30203c7a607866a2b2826d04ee4cae84cf3447722b1439d985259a97",
    ),
    "pool:float32:inherit": (
        "m-2e8974f3962b9d4ea66e97468dc62605",
        "be507cba08e8ec09a72c13678e35ce8fd581eab29e565c130935966dd38891cd",
    ),
    "pool:float32:zero": (
        "m-f6bad9f658b6172484014bf0e1763b17",
        "46ae9d5fcf1a41739dc9c1978b5657eba77d196f73573ae93be1b98781547aba",
    ),
    "pool:float32:random": (
        "m-d88b897fbdb5dfc8549ece3031c09292",
        "e20a4616a0f4cf96841366f7c3af9b6e0ff214dde9c35446cb80fb707f23aa25",
    ),
    "pool:float32:none": (
        "m-087924ab99d07a4b85512dd5eac3213b",
        "a5fddea9d17de54d95503b693d6ee1c9e48e24a5dec53145a181576582512675",
    ),
    "pool:float32:resampled": (
        "m-c597350326e7f9b3e767c3cd3692aa4d",
        "2feb3fbb31da4b30c7f7a578ab30e58404cfe2d3b9442d258034b640a316c856",
    ),
    "pool:float16:inherit": (
        "m-84c59f67833e42e395523222d49e9893",
        "f70bdb99ba93e0ca578480fe256c8e34e2ac64d04993c3f4695423f3a51fe773",
    ),
    "pool:float16:zero": (
        "m-8f741202d33acd2d7205e14630f28a2c",
        "27167d651cb99f323a24d373ae29ed7331b8004746c1a1784187c781a98f5165",
    ),
    "pool:float16:random": (
        "m-2fee1b2e501ee18a1fe459d6b6c037a6",
        "a9c0c89fbaea657ecf8d384c859a1abfab0102e63aa7e0421b453000d1d92987",
    ),
    "pool:float16:none": (
        "m-1c2894caaf14ee764127f1eb63d8da69",
        "4e3af9d536717c45eb9a1a05cb91a6d0accd9ee65bf0c20b9e66bc01dc3db140",
    ),
    "pool:float16:resampled": (
        "m-8084a4c4e522f48f4ba45c399547821b",
        "4b221e39ada7d067824fed165ccb73d57bca904adbdd5468409b0a1905bf364b",
    ),
    "pool:bfloat16:inherit": (
        "m-b10bbcec5f4d23df6dd6b5df5d9e9e97",
        "3ed1cca25b21fb4622f7a8b9eff88ea0c75a35289c7bf008c438560220c17eb5",
    ),
    "pool:bfloat16:zero": (
        "m-70c1554126c613e2da288b10c714c233",
        "21dfa0a23a34a0c4919204ee334b7c01acf841f2abaf4fcbc137fac5a2352b8c",
    ),
    "pool:bfloat16:random": (
        "m-b96c948fed92d936e9004c56b70b9e3d",
        "ff2fb61942425cd69f5cb6c966183765b8f56f9113a4026eaeae7b3ad4de913e",
    ),
    "pool:bfloat16:none": (
        "m-8cc9ac1a17c9ba9ec5703873db1156ec",
        "df3a05f86f3c91ca0bc15e52d649e788f473200ee5fd80e4a491df9c9f3d8b2c",
    ),
    "pool:bfloat16:resampled": (
        "m-fd32fc8d0f5423a2b32051ccbc9657a9",
        "8c41b9c917b054b6d8702c6bebecd58157a9f382d535b5317b622cad0285053a",
    ),
    "sn-net:float32:inherit": (
        "m-acd803171447aec31ecb77085d94b406",
        "7562f55e2f18dc8463b83b2b513de31f3795529ab9556e08d5eafcbb144e3a54",
    ),
    "sn-net:float32:zero": (
        "m-2db0a4fe8a55929f9635db51f73cdb0e",
        "f21f0a7799061a7dae6206008068a3aca1e506728bedb85699467a34d22ea5b4",
    ),
    "sn-net:float32:random": (
        "m-af4bc3d26964f035ff64414191911926",
        "2f76dde4e16891d85160cfa93a67789072c214e96940187c3474676a7669b340",
    ),
    "sn-net:float32:none": (
        "m-0536810641e38049046748d13c43e504",
        "169103e884799dc1728365b61763a574ca7e454e399898b322bc6b64db3b33b4",
    ),
    "sn-net:float32:resampled": (
        "m-122cbaae6cc94f8550926830b0733aa3",
        "773729c8783f9eb45aa8a26783ae3901663ae6246e221d47150ffc45eab6096b",
    ),
    "sn-net:float16:inherit": (
        "m-db4a351678c119d4004766ba00f875c7",
        "51457783b5d8b2cb0e2337e8d5b82a34c1a5f9af75ba6921b3cb3c4335c5deca",
    ),
    "sn-net:float16:zero": (
        "m-0940c548f120a076ba8a1c1094be66ba",
        "ebef7e53b1bef5d64075b427af60d0330ae385c3b8ebf33f4c09344ae08633a6",
    ),
    "sn-net:float16:random": (
        "m-e15174c61995548c8a2661e6eee1bfff",
        "c3dea4b45cca8920dca6ec3aa407608ad23b1cceb323cca1b8a92c7e49f7adf7",
    ),
    "sn-net:float16:none": (
        "m-524aa4bdd9b5dd039f11074baffce88b",
        "67125ab78e7ba94b44f59df65664dfa78ed10788b79fd7a3844fbc0ed6702a6f",
    ),
    "sn-net:float16:resampled": (
        "m-ecc01ee928e58d2d7545c8a34b743d08",
        "f50311adc101f02c6fa017a3ad33b502a0efcdda419d27961f8e4b2fee79bfc6",
    ),
    "sn-net:bfloat16:inherit": (
        "m-675def0fdc5af36966df50eb7ace417c",
        "56abc34438a9beb58704d85ca47741fbd008db8c6f1e30c04753a519a0665fd6",
    ),
    "sn-net:bfloat16:zero": (
        "m-5d993f1e3a3d271fe3c23501bdbc6fb0",
        "6fa12ce5577a89e37673fe7911c8c63842c7ce2b61cfa1c232d94e16c38c35ed",
    ),
    "sn-net:bfloat16:random": (
        "m-cdb8812b99ae1496694225b82c7c9336",
        "ac2b1fd245a49989abf59fd761b90691a7f8347c2664fdb7dabea46199d4240d",
    ),
    "sn-net:bfloat16:none": (
        "m-ba9c4dcdb24b5dc015efae4aa22f319a",
        "507b62036defbc508bbfe9f6474df4036d7833b14a8233df0edcb05faa7c7767",
    ),
    "sn-net:bfloat16:resampled": (
        "m-5f5df01d0f61ae6f73e2d5e352ddd2ed",
        "843d9284dc78330ae3c44507ca5140e2bc2e148e7706c3fafd7773f78bfe1afe",
    ),
    "pretrained:float32:inherit": (
        "m-dd4527df950d2d60074313b1e0d3b857",
        "c85dc54dc70c630d182734a6fba25eb961f11c87beea8ee3c09a46fdf93e0374",
    ),
    "pretrained:float32:zero": (
        "m-03d92f59d32b9366ee2f7bb108bb513d",
        "d2dc695841e8da114d123cb7a64bf2f2b24c93895f00e4f9536b17fff32d14eb",
    ),
    "pretrained:float32:random": (
        "m-63a6b6918eb302f3cc24741ea204e4c6",
        "bb3dd58f6de0a4e75caf5afeb96769bd1086c84787b36c21c8715344344c9085",
    ),
    "pretrained:float32:none": (
        "m-a5d422164887f0c820eece352812405d",
        "0329ea98d09ae867c73e1e80721b1d285f8c0b018569ab520901a991d468dce8",
    ),
    "pretrained:float32:resampled": (
        "m-ae7a4eff98ee3a663dd5d24901a60119",
        "d2fe7c5bf358e8f9e09307f8c544257e2e0d00981aed600b4e701e9c947b5d70",
    ),
    "pretrained:float16:inherit": (
        "m-cbc9146eb165434746dd2d509433c970",
        "49ad27d081424b5d3025ad7eb9bcf794e67311e4523b259daa8b40b659595166",
    ),
    "pretrained:float16:zero": (
        "m-adf38f4892f5af978fda2a7e498f9456",
        "e30aaedf09c45d569204650cb853738abc26c8c81e6419c1851d0fbe23e00b96",
    ),
    "pretrained:float16:random": (
        "m-d2632360c5446c26556311761c40ede8",
        "4039265e87a1cfcc138ce991e708711090565d5cf425e5ae1e996952e32d5cb7",
    ),
    "pretrained:float16:none": (
        "m-d07da7de9381f6b9ed1500245a793e1f",
        "28e5025fd6705b7ec28224e99bb2a047a33a34ab76051dd202eae44c75bbf56d",
    ),
    "pretrained:float16:resampled": (
        "m-129156a12e99d296002d1401d8588ddd",
        "5bacbb707eb3b652a390b6e6b81617e32b559eb2a93f99be13dad1d22bb01096",
    ),
    "pretrained:bfloat16:inherit": (
        "m-ee447df9d70c332607e4ec518363ff86",
        "fb337d228fc03212cf2c9a6831e01a188e2173c194c2d792f436099f8ce050ee",
    ),
    "pretrained:bfloat16:zero": (
        "m-b8e18234d3141a3210965f0cc1dd3dd0",
        "640ae783fee35cc9a1ede737b6dcf51fa7613192125c04179758cad3fb0237bb",
    ),
    "pretrained:bfloat16:random": (
        "m-ccae5c9bef59f8a057d7223302869710",
        "d4e39ade098023cf18a87685b4d3c74442095731a8b8ae572197392375cd8497",
    ),
    "pretrained:bfloat16:none": (
        "m-8c8c7e1906478cd15657965b4a62e109",
        "7774988b933e8459d7d8f39b98eff1f809d7c19a9329210564ad740ca5f1f5ef",
    ),
    "pretrained:bfloat16:resampled": (
        "m-20f920da7d41bd9d35e32d3d0af09221",
        "2be5d08d7752f4e58aaebfe2103c20703d135b92d68963c554a62198c0186267",
    ),
    "scratch:float32:zero": (
        "m-9d0aae0afc3b8939acd98db49bb2dbb8",
        "a9812944e103665230735c491b5889476c0d90809318fdc3cdf288947b067ace",
    ),
    "scratch:float32:random": (
        "m-676ab73e260009c6f114580de3f2b4b3",
        "1761667cfe2ee8b48c8e20a17830ef3dd7a832bd9e562b0d3393878f12de0cb9",
    ),
    "scratch:float32:none": (
        "m-7c07ceaa2adcd3c9fadee51e7fbd2bf2",
        "b5b525ccdc56b77ac5f7763a9e4f8394953164309a53e4829873832ed7b1cc18",
    ),
    "scratch:float16:zero": (
        "m-111c0e5331611c6b2bf36eec32c8f240",
        "5972ebfca68cee5f84b85ae4d29c28e9f66db8f2601c4e31c45cda37ad3dc2cb",
    ),
    "scratch:float16:random": (
        "m-304b21a631412e21fb4cc9db3c911ec8",
        "b4e64c49923f64d37945fc227491e82b07225390418eb973d40762555b9814cf",
    ),
    "scratch:float16:none": (
        "m-dae6e6124a97f6377a34e069f9c36718",
        "085ab58459bbb34030884afc3e37b7d453550c8a3e573a851a3ac2130a9d02bc",
    ),
    "scratch:bfloat16:zero": (
        "m-3709e20891579b4b7cd5d4975270cabe",
        "f51c2a34499404696a010c75edb8dd960f477eaab2ffa457f1eb5d7693339d24",
    ),
    "scratch:bfloat16:random": (
        "m-6b1cb6ef6650aec4bad13b6d32c130e5",
        "43463de02a41a8e05e836fe74bc1ad0eee540442899140a8e151ad507851f287",
    ),
    "scratch:bfloat16:none": (
        "m-3dd75008db9b67087fe36b93bfeec74e",
        "db41009b31b83b4a77492c28089a4e9d21c211b204d265d718641b024d12946a",
    ),
}

VARIATIONS = {
    "inherit": (Head.INHERIT, None, None),
    "zero": (Head.ZERO, 3, None),
    "random": (Head.RANDOM, 5, None),
    "none": (Head.NONE, 0, None),
    "resampled": (Head.INHERIT, None, 48),
}

FAMILIES: dict[str, Learngene] = {method.value: build_learngene(method=method) for method in METHOD_SCHEDULES} | {
    "pool": build_pool(),
    "sn-net": build_pool(method=Method.SN_NET),
    "pretrained": build_pool(replace(TEST_POOL, stitches=(), paths=()), Method.PRETRAINED),
    "scratch": build_scratch(),
}

PATHS = {"pool": "0.0-1_1.3-3", "sn-net": "0.0-0_1.1-1_0.2-2", "pretrained": "1.0-3"}
"""The member of a pool that is frozen: stitched, there and back, a whole anchor."""

CASES = [
    f"{name}:{dtype}:{variation}"
    for name in FAMILIES
    for dtype in DType
    for variation in VARIATIONS
    if (name, variation) not in (("scratch", "inherit"), ("scratch", "resampled"))  # there is no head to inherit
]


def descendant_of(case: str) -> Descendant:
    """Return the file of a table's key."""
    name, dtype, variation = case.split(":")
    head, num_classes, img_size = VARIATIONS[variation]
    family = Family(FAMILIES[name])
    member = Member.along(Path.parse(PATHS[name])) if name in PATHS else Member(depth=DEPTH)
    request = Variation(num_classes=num_classes, img_size=img_size, dtype=DType(dtype))
    return Descendant(family, family.recipe(member, request, head=head, seed=2024))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_learngenes_digest_is_frozen(name: str) -> None:
    """The digest that recipes name is as it was."""
    assert FAMILIES[name].digest == LEARNGENES[name]


@pytest.mark.parametrize("case", CASES)
def test_a_descendants_id_and_bytes_are_frozen(case: str) -> None:
    """The id of a recipe and the sha256 of its file are as they were, the digest taken of the bytes as they are read."""
    descendant = descendant_of(case)
    content = descendant.read(0, descendant.size)
    assert (descendant.recipe.model_id, hashlib.sha256(content).hexdigest()) == DESCENDANTS[case]
    assert descendant.sha256() == DESCENDANTS[case][1]


if __name__ == "__main__":
    for name, learngene in FAMILIES.items():
        print(f'    "{name}": "{learngene.digest}",')
    for case in CASES:
        descendant = descendant_of(case)
        print(f'    "{case}": ("{descendant.recipe.model_id}", "{descendant.sha256()}"),')
