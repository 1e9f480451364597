// One picture of a part to its verdict. .NET 10 or newer, no packages:
//   INSPECT_URL=http://localhost:8000 INSPECT_KEY=fls_... dotnet run examples/InspectPart.cs part.png SERIAL LOT STATION
// Exit code: 0 ok, 10 not_ok, 11 a person must look (review, undecidable), any other: the part is not inspected.
using System.Net;
using System.Net.Http.Headers;
using System.Security.Cryptography;
using System.Text.Json;

var patience = TimeSpan.FromSeconds(30); // after that the line must go on without an answer
// too busy, restarting, late: the same request may pass in a moment
HashSet<int> again = [408, 429, 502, 503, 504];

string Argument(int place) => args.Length > place ? args[place] : "";
if (args.Length == 0)
{
    Console.Error.WriteLine("which picture? dotnet run examples/InspectPart.cs part.png SERIAL LOT STATION");
    return 1;
}
var picture = await File.ReadAllBytesAsync(args[0]);
var (serial, lot, station) = (Argument(1), Argument(2), Argument(3));
var url = Environment.GetEnvironmentVariable("INSPECT_URL") ?? "http://localhost:8000";

using var client = new HttpClient { Timeout = Timeout.InfiniteTimeSpan };
if (Environment.GetEnvironmentVariable("INSPECT_KEY") is { Length: > 0 } key)
    client.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", key);
// one shot of one part: however often this is sent, it is judged and recorded once
var shot = $"{serial} {station} {Convert.ToHexString(SHA256.HashData(picture))[..16]}";
client.DefaultRequestHeaders.TryAddWithoutValidation("Idempotency-Key", shot);

var giveUp = DateTime.UtcNow + patience;
var wait = TimeSpan.FromMilliseconds(500);
while (DateTime.UtcNow < giveUp)
{
    var left = giveUp - DateTime.UtcNow;
    using var form = new MultipartFormDataContent
    {
        { new ByteArrayContent(picture), "image", "part" },
        { new StringContent(serial), "serial" },
        { new StringContent(lot), "lot" },
        { new StringContent(station), "station" },
    };
    using var request = new HttpRequestMessage(HttpMethod.Post, $"{url}/detect") { Content = form };
    request.Headers.Add("X-Deadline-Ms", ((int)Math.Max(1, left.TotalMilliseconds)).ToString());
    using var late = new CancellationTokenSource(left + TimeSpan.FromSeconds(1));
    try
    {
        using var answer = await client.SendAsync(request, late.Token);
        using var json = JsonDocument.Parse(await answer.Content.ReadAsStringAsync(late.Token));
        if (answer.StatusCode == HttpStatusCode.OK)
        {
            var result = json.RootElement.GetProperty("results")[0];
            var verdict = result.GetProperty("verdict").GetString();
            Console.WriteLine($"{serial} {verdict} {result.GetProperty("id").GetString()}");
            return verdict switch { "ok" => 0, "not_ok" => 10, _ => 11 };
        }
        if (!again.Contains((int)answer.StatusCode))
        {
            // wrong picture, key, parameter: the same request fails again
            Console.Error.WriteLine($"{(int)answer.StatusCode}: {json.RootElement.GetProperty("detail").GetString()}");
            return 1;
        }
        wait = answer.Headers.RetryAfter?.Delta ?? wait;
    }
    catch (Exception error) when (error is HttpRequestException or OperationCanceledException or JsonException)
    {
        Console.Error.WriteLine($"{error.Message}; trying again");
    }
    var rest = giveUp - DateTime.UtcNow;
    if (rest > TimeSpan.Zero) await Task.Delay(wait < rest ? wait : rest);
    wait = wait * 2 < TimeSpan.FromSeconds(8) ? wait * 2 : TimeSpan.FromSeconds(8);
}
Console.Error.WriteLine($"no answer within {patience.TotalSeconds:g} s");
return 1;
